# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand in for the get-pip.py that ansible-test would download: the standard library has pip, and pip fetches the rest."""

from __future__ import annotations

import subprocess
import sys

OWN_OPTIONS = {"--no-setuptools", "--no-wheel"}

# In a child: ensurepip.bootstrap() leaves PIP_CONFIG_FILE=/dev/null in the environment, which hides the machine's settings.
subprocess.check_call([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL)
packages = [argument for argument in sys.argv[1:] if argument not in OWN_OPTIONS]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *packages]))
