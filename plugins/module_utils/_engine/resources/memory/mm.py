# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a task's mm: where its code, data, heap, stack, arguments and environment lie, and its program (images/mm.proto)."""

from __future__ import annotations

import os
import struct
from typing import Any, Sequence, Tuple

from ...images.schema import message
from ...kernel import procfs
from ...kernel.prctl import PR_SET_MM, PR_SET_MM_MAP
from ...tracee.calls import Struct
from ...tracee.tracee import Tracee
from ..files.dump import FilesDump

_MM_MAP = struct.Struct("<12QII")  # struct prctl_mm_map
_AUXV_POINTER = 11 * 8


def dump_mm(leader: Tracee, vmas: Sequence[Any], files: FilesDump) -> Any:
    """Return the mm_entry of a stopped task, without its attributes. Raises OSError, UnsupportedError."""
    brk = leader.call("brk", 0)
    stat, auxv = procfs.stat(leader.pid), procfs.auxv(leader.pid)
    return message("mm_entry")(
        mm_start_code=stat.start_code,
        mm_end_code=stat.end_code,
        mm_start_data=stat.start_data,
        mm_end_data=stat.end_data,
        mm_start_stack=stat.start_stack,
        mm_start_brk=stat.start_brk,
        mm_brk=brk,
        mm_arg_start=stat.arg_start,
        mm_arg_end=stat.arg_end,
        mm_env_start=stat.env_start,
        mm_env_end=stat.env_end,
        exe_file_id=_add_program(leader.pid, files),
        mm_saved_auxv=_without_end(struct.unpack(f"<{len(auxv) // 8}Q", auxv)),
        vmas=vmas,
    )


def _without_end(auxv: Tuple[int, ...]) -> Tuple[int, ...]:
    """Return AUXV without the AT_NULL that ends it: the kernel adds that again, and CRIU 4.2 takes at most 44 words."""
    return auxv[:-2] if auxv[-2:] == (0, 0) else auxv


def _add_program(pid: int, files: FilesDump) -> int:
    path = f"/proc/{pid}/exe"
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return files.add_open(fd, os.readlink(path))
    finally:
        os.close(fd)


def restore_mm(leader: Tracee, entry: Any, program: int) -> None:
    """Set the numbers of a task whose address space is empty, or inherited; PROGRAM is its descriptor of the executable. Raises OSError.

    PROGRAM is -1 where the task has inherited it with its memory.

    Once the program that we ourselves run is mapped, the kernel would not let go of it as the task's (EBUSY).
    """
    auxv = struct.pack(f"<{len(entry.mm_saved_auxv)}Q", *entry.mm_saved_auxv)
    numbers = _MM_MAP.pack(
        entry.mm_start_code,
        entry.mm_end_code,
        entry.mm_start_data,
        entry.mm_end_data,
        entry.mm_start_brk,
        entry.mm_brk,
        entry.mm_start_stack,
        entry.mm_arg_start,
        entry.mm_arg_end,
        entry.mm_env_start,
        entry.mm_env_end,
        0,
        len(auxv),
        program & 0xFFFFFFFF,
    )
    leader.call("prctl", PR_SET_MM, PR_SET_MM_MAP, Struct(numbers, ((_AUXV_POINTER, auxv),)), len(numbers), 0)
