# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of ptrace(2), as python-ptrace tells them with and without its C extension."""

from __future__ import annotations

import errno
import os

import pytest
from _engine.kernel import ptrace
from ptrace import PtraceError


def test_a_refused_request_tells_its_errno() -> None:
    with pytest.raises(ProcessLookupError):
        ptrace.interrupt(os.getpid())


def test_the_c_extension_tells_errno_in_its_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: int) -> int:
        raise PtraceError("ptrace(request=16902, pid=1, (nil), (nil)) error #1: Operation not permitted", errno=0, pid=1)

    monkeypatch.setattr(ptrace.func, "ptrace", refuse)
    with pytest.raises(PermissionError) as caught:
        ptrace.seize(1)
    assert caught.value.errno == errno.EPERM
