# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen of a tree of processes from outside: to be compared before and after a dump, and after a restore.

What a restore cannot keep, and need not, is left out or brought into a form that it keeps: inode numbers of pipes and
sockets become the order in which they are met.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TRACKER = "anon_inode:[userfaultfd]"
_STATUS = (
    "Name Umask Tgid NStgid NSpid NSpgid NSsid TracerPid Uid Gid Groups FDSize Threads SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm "
    "CapEff CapBnd CapAmb NoNewPrivs Seccomp Cpus_allowed THP_enabled CoreDumping"
).split()
_STATUS.remove("FDSize")  # the size of the table, which never shrinks
_FDINFO = ("pos", "flags", "eventfd-count", "eventfd-semaphore", "sigmask", "clockid", "settime flags", "it_interval")
_OBJECT = re.compile(r"(socket|pipe):\[(\d+)\]")
_OUR_VM_FLAGS = {"uw", "sd", "ac"}
"""Registered for tracking, soft-dirty, accounted: no state of the program's."""
_KERNELS_OWN = ("[vvar]", "[vvar_vclock]", "[vsyscall]")


@dataclass
class Names:
    """Gives each kernel object met a number, in the order of meeting."""

    known: dict[str, int] = field(default_factory=dict)

    def of(self, link: str) -> str:
        if not _OBJECT.fullmatch(link):
            return link
        return f"{link.split(':')[0]} {self.known.setdefault(link, len(self.known))}"


@dataclass(frozen=True)
class Area:
    """A line of /proc/PID/maps, with the flags of smaps."""

    start: int
    end: int
    perms: str
    offset: int
    name: str
    flags: str

    @property
    def key(self) -> tuple[str, ...]:
        return (f"{self.start:x}-{self.end:x}", self.perms, f"{self.offset:x}", self.name, self.flags)

    def goes_on_in(self, other: Area) -> bool:
        """Tell whether the kernel may have both as one mapping."""
        offset = self.offset + self.end - self.start if self.offset or other.offset else 0
        same = (self.perms, self.name, self.flags) == (other.perms, other.name, other.flags)
        return same and self.end == other.start and other.offset == offset


def tree(root: int) -> list[int]:
    """Return ROOT, which must be there, and the processes below it, in the order of their numbers."""
    os.stat(f"/proc/{root}")
    found = [root]
    for pid in found:
        with suppress(FileNotFoundError, ProcessLookupError):  # a server's children come and go
            for tid in os.listdir(f"/proc/{pid}/task"):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()]
    return sorted(found)


def areas(pid: int) -> list[Area]:
    """Return the mappings of PID, neighbours that the kernel may join as one."""
    found: list[Area] = []
    for text in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text()):
        head, *rest = text.split("\n")
        span, perms, offset, _device, inode, *name = head.split(None, 5)
        start, end = (int(part, 16) for part in span.split("-"))
        flags = next(line for line in rest if line.startswith("VmFlags:")).split()[1:]
        private = not int(inode)
        own_flags = " ".join(flag for flag in flags if flag not in _OUR_VM_FLAGS)
        area = Area(start, end, perms, 0 if private else int(offset, 16), "".join(name), own_flags)
        if found and found[-1].goes_on_in(area):
            last = found.pop()
            area = Area(last.start, area.end, area.perms, last.offset, area.name, area.flags)
        found.append(area)
    return found


def contents(pid: int) -> dict[str, str]:
    """Return a digest of each mapping's content: of pages that are not zero, with their addresses."""
    digests = {}
    memory, pagemap = os.open(f"/proc/{pid}/mem", os.O_RDONLY), os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for area in areas(pid):
            if area.name not in _KERNELS_OWN and "io" not in area.flags.split():
                digest = hashlib.sha256()
                for address, page in _pages(memory, pagemap, area):
                    digest.update(struct.pack("<Q", address) + page)
                digests[f"{area.start:x} {area.name}"] = digest.hexdigest()
    finally:
        os.close(memory)
        os.close(pagemap)
    return digests


def _pages(memory: int, pagemap: int, area: Area) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of AREA that are not zero. Of private anonymous memory only what is there is looked at."""
    step = 1 << 24
    sparse = area.name != "[vdso]" and not area.name.startswith("/")
    for start in range(area.start, area.end, step):
        size = min(step, area.end - start)
        entries = os.pread(pagemap, size // PAGE * 8, start // PAGE * 8)
        if sparse and not any(entries[7::8]):
            continue
        for index in range(size // PAGE):
            if not sparse or entries[index * 8 + 7] & 0xC0:
                try:
                    page = os.pread(memory, PAGE, start + index * PAGE)
                except OSError:
                    continue  # behind the end of a file
                if page.strip(b"\0"):
                    yield start + index * PAGE, page


def descriptors(pid: int, names: Names) -> dict[int, tuple[str, ...]]:
    """Return what each descriptor of PID is, but for the tracker's."""
    found = {}
    for fd in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
        link = os.readlink(f"/proc/{pid}/fd/{fd}")
        if link != TRACKER:
            lines = [line.partition(":") for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()]
            info = tuple(f"{key} {value.strip()}" for key, _colon, value in lines if key in _FDINFO)
            found[fd] = (names.of(link), *info)
    return found


def status(pid: int, tid: int) -> dict[str, str]:
    """Return what /proc tells of a thread."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines())
    found = {key: value.strip() for key, _colon, value in lines if key in _STATUS}
    stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()
    found["stopped"] = str(stat[0] in "Tt")
    found["nice"], found["policy"], found["priority"] = stat[16], stat[38], stat[37]
    if tid == pid:
        found["flags of the mm"] = " ".join(stat[at] for at in (23 - 0, 24, 25, 42, 43, 44, 45, 46, 47, 48))
    return found


def process(pid: int, root: int, names: Names) -> dict[str, object]:
    """Return what can be seen of PID, but for its memory."""
    base = Path(f"/proc/{pid}")
    stat = (base / "stat").read_text().rpartition(")")[2].split()
    seen: dict[str, object] = {f"mapping {' '.join(area.key[:4])}": area.flags for area in areas(pid)}
    seen.update({f"descriptor {fd}": what for fd, what in descriptors(pid, names).items()})
    for tid in sorted(int(name) for name in os.listdir(base / "task")):
        seen.update({f"thread {tid}, {name}": value for name, value in status(pid, tid).items()})
    seen["parent, group, session, terminal"] = [stat[1] if pid != root else "", *stat[2:5]]
    seen["exit signal"] = stat[35] if pid != root else ""
    seen["children"] = (base / "task" / str(pid) / "children").read_text().split()
    seen["timers"] = (base / "timers").read_text()
    for name in ("cmdline", "environ", "limits", "oom_score_adj", "coredump_filter", "personality", "auxv", "timerslack_ns"):
        seen[name] = (base / name).read_bytes()
    for name in ("exe", "cwd", "root"):
        seen[name] = os.readlink(base / name)
    return seen


def look(root: int, memory: bool = True) -> dict[str, object]:
    """Return all that can be seen of the tree under ROOT, by its name; its threads must not write while that is read."""
    names = Names()
    seen: dict[str, object] = {}
    for pid in tree(root):
        task = process(pid, root, names)
        if memory:
            task.update({f"content of {name}": digest for name, digest in contents(pid).items()})
        seen.update({f"{pid}: {name}": value for name, value in task.items()})
    return seen


def assert_same(before: dict[str, object], after: dict[str, object], *but: str) -> None:
    """Fail when anything is not as it was, but for names that end with one of BUT."""
    names = [name for name in (*before, *(name for name in after if name not in before)) if not name.endswith(but)]
    differing = [f"{name}: {before.get(name)!r} became {after.get(name)!r}" for name in names if before.get(name) != after.get(name)]
    if differing:
        raise AssertionError("\n".join(differing))
