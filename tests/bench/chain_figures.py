# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Print as JSON what the images in a directory say, and how long it takes to verify them: `chain_figures.py IMAGES_DIR`.

A program of its own, so that the one that measures stays small: a child's peak memory counts from that of its parent.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "plugins" / "module_utils"))
from _engine.images.chain import open_chain  # noqa: E402
from _engine.images.image import ImagesDir  # noqa: E402


def main() -> None:
    """Print the figures."""
    path = sys.argv[1]
    stats = ImagesDir(path).read("stats-dump")[0].dump  # type: ignore[attr-defined]
    started = time.monotonic()
    open_chain(path, verify=False)
    opened = time.monotonic()
    open_chain(path, verify=True)
    verified = time.monotonic()
    figures = {
        "frozen": stats.frozen_time / 1e6,
        "written": stats.pages_written,
        "in_parent": stats.pages_skipped_parent,
        "verify": (verified - opened) - (opened - started),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
