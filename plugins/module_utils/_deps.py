# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python libraries that the engine needs, and what is said where one is missing. Private to this collection."""

from __future__ import annotations

import traceback
from typing import Dict, Optional

from ansible.module_utils.basic import AnsibleModule, missing_required_lib


def _protobuf() -> Optional[str]:
    try:
        import google.protobuf  # noqa: F401, pylint: disable=unused-import
    except ImportError:
        return traceback.format_exc()
    return None


def _ptrace() -> Optional[str]:
    try:
        import ptrace.binding  # noqa: F401, pylint: disable=unused-import
    except ImportError:
        return traceback.format_exc()
    return None


PROBES = {"protobuf": _protobuf, "python-ptrace": _ptrace}
REASONS: Dict[str, str] = {
    "protobuf": "to read and write images",
    "python-ptrace": "to stop processes and to build them up again",
}
IMAGES = ("protobuf",)
TRACING = ("protobuf", "python-ptrace")


def require(module: AnsibleModule, *libraries: str) -> None:
    """Fail MODULE, naming the library and the Python that lacks it, unless all LIBRARIES can be imported."""
    for library in libraries:
        error = PROBES[library]()
        if error is not None:
            module.fail_json(msg=missing_required_lib(library, reason=REASONS[library]), exception=error)
