# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The CRIU that the engine is compared with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Optional


def find_criu(root: Path) -> Optional[str]:
    """Return a CRIU that works on this kernel: of STILLFRAME_CRIU, fetched into the checkout ROOT, or the machine's."""
    for path in (os.environ.get("STILLFRAME_CRIU"), str(root / ".cache" / "criu" / "criu"), shutil.which("criu")):
        if path and os.access(path, os.X_OK) and subprocess.run([path, "check"], capture_output=True, check=False).returncode == 0:
            return path
    return None
