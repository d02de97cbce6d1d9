# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc tells of a task: memory, mappings, state, threads, children (proc(5))."""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

GONE = (FileNotFoundError, ProcessLookupError)
"""What reading /proc/PID raises when the process has ended: ENOENT on open, ESRCH on read."""
MAP_FIXED = 0x10
MAP_FIXED_NOREPLACE = 0x100000  # include/uapi/asm-generic/mman-common.h


class Area(NamedTuple):
    """A line of /proc/PID/maps, with the VmFlags of smaps where those were asked for."""

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    name: str
    vm_flags: FrozenSet[str] = frozenset()

    @property
    def shared(self) -> bool:
        return self.perms[3] == "s"


class ThreadStatus(NamedTuple):
    """What /proc/PID/task/TID/status tells of a thread's signals, sets in which bit n-1 is signal n, and of its numbers."""

    pending: int
    shared_pending: int
    blocked: int
    ignored: int
    caught: int
    own_pid: int
    """Its process, as their own PID namespace numbers it."""
    own_tid: int


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that an engine needs."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    tty: int
    flags: int
    nice: int
    threads: int
    start_time: int
    """Clock ticks since boot."""
    start_code: int
    end_code: int
    start_stack: int
    rt_priority: int
    policy: int
    start_data: int
    end_data: int
    start_brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    exit_code: int


PF_EXITING, PF_KTHREAD = 0x00000004, 0x00200000  # include/linux/sched.h
_KILLED = 1 << signal.SIGKILL - 1
_SIGNAL_SETS = re.compile("\n".join(f"{name}:\t(.+)" for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")))
_OWN_NUMBERS = re.compile(r"NStgid:.*\s(\d+)\nNSpid:.*\s(\d+)\n")
_STATUS_LINE = re.compile(r"^(\w+):[ \t]*(.*)$", re.MULTILINE)
_CHUNK = 1 << 14


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # thousands of times in a stop: a file object would take twice as long
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def text(path: str) -> str:
    """Return the content of a file in /proc. Raises OSError."""
    return _read(path)


def lines(path: str) -> List[str]:
    """Return the lines of a file in /proc, which ends none of them by anything but a line feed: names hold what they like."""
    return _read(path).split("\n")[:-1]


def maps(pid: int) -> List[Area]:
    """Return the mappings of PID."""
    return [_area(line) for line in lines(f"/proc/{pid}/maps")]


def area_at(pid: int, address: int) -> Optional[Area]:
    """Return the mapping of PID that ADDRESS is in, None when it is in none."""
    for line in lines(f"/proc/{pid}/maps"):
        if address < int(line[line.index("-") + 1 : line.index(" ")], 16):
            area = _area(line)
            return area if area.start <= address else None
    return None


def smaps(pid: int) -> List[Area]:
    """Return the mappings of PID with their VmFlags. The kernel walks the page tables for it: about 4 ms a GiB."""
    found: List[Area] = []
    area = None
    for line in lines(f"/proc/{pid}/smaps"):
        key = line.split(" ", 1)[0]
        if key == "VmFlags:" and area is not None:
            found.append(area._replace(vm_flags=frozenset(line.split()[1:])))
        elif not key.endswith(":"):
            area = _area(line)
    return found


def _area(line: str) -> Area:
    fields = line.split(None, 5)
    start, end = (int(word, 16) for word in fields[0].split("-"))
    name = fields[5].replace("\\012", "\n") if len(fields) > 5 else ""
    return Area(start, end, fields[1], int(fields[2], 16), fields[3], int(fields[4]), name)


def status(pid: int, tid: int = 0) -> Dict[str, str]:
    """Return the lines of /proc/PID/status, or of its thread TID."""
    path = f"/proc/{pid}/task/{tid}/status" if tid else f"/proc/{pid}/status"
    return dict(_STATUS_LINE.findall(_read(path)))


def lives(pid: int) -> bool:
    """Tell whether PID is there and no zombie; one whose first thread has ended lives on in the others."""
    try:
        found = stat(pid)
        return found.state not in "ZX" or found.threads > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pid: int, tid: int) -> bool:
    """Tell whether thread TID of PID is gone, or a zombie: nobody can trace it any more."""
    try:
        return _read(f"/proc/{pid}/task/{tid}/stat").rpartition(")")[2].split()[0] in "ZX"
    except GONE:
        return True


def goes_on(pid: int) -> bool:
    """Tell whether PID is there, no zombie, and not just exiting: then its memory is gone before it is a zombie."""
    return lives(pid) and not ends(pid)


def ends(tid: int) -> bool:
    """Tell whether thread TID is a zombie, or is about to be one: it is exiting, or was sent SIGKILL."""
    try:
        own = thread_status(tid, tid)
        return stat(tid).state in "ZX" or bool(stat(tid).flags & PF_EXITING or (own.pending | own.shared_pending) & _KILLED)
    except GONE:
        return False


def thread_status(pid: int, tid: int) -> ThreadStatus:
    """Return the signal sets and the numbers of thread TID of PID."""
    content = _read(f"/proc/{pid}/task/{tid}/status")
    sets, numbers = _SIGNAL_SETS.search(content), _OWN_NUMBERS.search(content)
    if sets is None or numbers is None:
        raise ProcessLookupError(errno.ESRCH, f"/proc tells nothing of the signals of thread {tid}")
    return ThreadStatus(*(int(bits, 16) for bits in sets.groups()), *map(int, numbers.groups()))


def thread_group(tid: int) -> int:
    """Return the process that thread TID belongs to."""
    return int(status(tid)["Tgid"])


def stat(pid: int) -> Stat:
    """Return the numbers of /proc/PID/stat."""
    text = _read(f"/proc/{pid}/stat")
    comm = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()

    def field(number: int) -> int:
        """Return field NUMBER as proc(5) counts them."""
        return int(fields[number - 3])

    numbers = (4, 5, 6, 7, 9, 19, 20, 22, 26, 27, 28, 40, 41, 45, 46, 47, 48, 49, 50, 51, 52)
    return Stat(pid, comm, fields[0], *(field(number) for number in numbers))


def processes() -> List[int]:
    """Return all processes that we see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def numbers(pid: int) -> Tuple[int, ...]:
    """Return the session and the process group of PID; nothing when it has ended."""
    try:
        found = stat(pid)
    except GONE:
        return ()
    return found.session, found.pgrp


def threads(pid: int) -> List[int]:
    """Return the threads of PID, the leader first."""
    found = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    return [pid] + [tid for tid in found if tid != pid]


def children(pid: int) -> List[int]:
    """Return the children of PID, of any of its threads."""
    return [int(word) for tid in threads(pid) for word in _read(f"/proc/{pid}/task/{tid}/children").split()]


def descendants(pid: int) -> Iterator[int]:
    """Yield PID and all processes below it, parents before children; those that end meanwhile may be left out."""
    yield pid
    try:
        below = children(pid)
    except GONE:
        return
    for child in below:
        yield from descendants(child)


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Return SIZE bytes of memory of PID at ADDRESS, also where its mapping cannot be read by itself. Raises OSError."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(memory, size, address)
    finally:
        os.close(memory)


def write_memory(pid: int, address: int, content: bytes) -> None:
    """Replace memory of PID at ADDRESS by CONTENT, also where its mapping cannot be written by itself. Raises OSError."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        while content:
            done = os.pwrite(memory, content, address)
            if not done:
                raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")  # fs/proc/base.c, mem_rw: it has no memory any more
            address, content = address + done, content[done:]
    finally:
        os.close(memory)


def auxv(pid: int) -> bytes:
    """Return the auxiliary vector as the kernel keeps it."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        return file.read()


def ranges(listed: str) -> FrozenSet[int]:
    """Return the numbers of a list such as "0-3,5"."""
    parts = (part.partition("-") for part in listed.strip().split(",") if part)
    return frozenset(number for first, _dash, last in parts for number in range(int(first), int(last or first) + 1))


def boot_id() -> str:
    """Return what tells this boot of the machine from all others."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def numbering() -> str:
    """Return what tells this boot and our PID namespace from all others: only where both are the same has a PID the same meaning."""
    return f"{boot_id()}-{os.stat('/proc/self/ns/pid').st_ino:x}"
