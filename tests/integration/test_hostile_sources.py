# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever comes to a receiver over its connection but a tree that moves: it is refused, and changes nothing."""

from __future__ import annotations

import logging
import mmap
import os
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from _engine.errors import EngineError, MoveError
from _engine.images.schema import message
from _engine.options import ReceiveTreeOptions
from _engine.receive import receive
from _engine.transfer import wire
from _engine.transfer.codec import pack, pack_areas, pack_pages
from _engine.transfer.greeting import FORMAT
from _engine.transfer.wire import Link

from victim import children

_SESSION = "5210e903-2fce-4232-98cb-6cb5ea488568"
_PAGE = mmap.PAGESIZE
_START = 0x7000_0000_0000
_PLAIN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

CARRIED = {"carried": [], "boot": ""}

Attack = Callable[[Link, socket.socket, int], None]
"""What comes over the connection; the number is that of a process that is announced, if it comes so far."""


def free_pid() -> int:
    """Return a number that no process has now."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@contextmanager
def attacked_by(attack: Attack, pid: int) -> Iterator[socket.socket]:
    """Return the end of a connection at whose other end ATTACK is made."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs, suppress(MoveError, OSError):
            link = Link(theirs, 10)
            attack(link, theirs, pid)
            theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(1 << 16):
                pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


def refusal(attack: Attack, accepted: Sequence[str] = ()) -> str:
    """Return why a receiver, which has ACCEPTED some files, refuses ATTACK, when nothing is left of it."""
    pid, before, mounts = free_pid(), children(), len(os.listdir("/proc/self/fd"))
    with attacked_by(attack, pid) as ours:
        options = ReceiveTreeOptions(link_timeout=5, decision_timeout=0.1, shell_job=True, accept_files=accepted)
        with pytest.raises(EngineError) as caught:
            receive(options, lambda timeout: ours.dup(), logging.getLogger("hostile"))
    assert not Path(f"/proc/{pid}").exists()
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == mounts
    return str(caught.value)


def greet(link: Link, session: object = _SESSION) -> None:
    link.send(wire.HELLO, pack({"format": FORMAT, "session": session, "algorithms": ["crc32"]}))
    link.expect(wire.HELLO)
    needs = {"machine": platform.machine(), "page_size": _PAGE, "cpu": [], "numbers": [], "memory": 0, **CARRIED}
    link.send(wire.NEEDS, pack({**needs, "programs": [], "files": [], "ports": [], "huge": 0, "features": [], "time": time.time()}))
    link.expect(wire.OBSTACLES)


def tree(link: Link, pid: int, *members: list[object]) -> None:
    """Announce a tree of MEMBERS, or of PID alone."""
    greet(link)
    link.send(wire.TREE, pack({"members": members or [[pid, 0, pid, pid, pid, pid, 17]]}))


def area(start: int, end: int, flags: int = _PLAIN) -> object:
    return message("vma_entry")(start=start, end=end, pgoff=0, shmid=0, prot=3, flags=flags, status=0, fd=-1)


def mapped(link: Link, pid: int) -> None:
    """Announce a process with four pages."""
    tree(link, pid)
    link.send(wire.AREAS, pack_areas(pid, [area(_START, _START + 4 * _PAGE)]))


def speaks_http(link: Link, raw: socket.socket, pid: int) -> None:
    raw.sendall(b"GET / HTTP/1.1\r\nHost: stillframe.invalid\r\n\r\n")


def sends_too_much(link: Link, raw: socket.socket, pid: int) -> None:
    raw.sendall(struct.pack("<4sB3xIQ16s4x", b"SFmv", 1, wire.LARGEST + 1, 0, b"0" * 16))


def changes_a_byte(link: Link, raw: socket.socket, pid: int) -> None:
    raw.sendall(struct.pack("<4sB3xIQ16s4x", b"SFmv", 1, 2, 0, b"0" * 16) + b"{}")


def nests(link: Link, raw: socket.socket, pid: int) -> None:
    link.send(wire.HELLO, b"[" * 100_000)


def names_a_path(link: Link, raw: socket.socket, pid: int) -> None:
    greet(link, "../../../etc/passwd")


def asks_for_a_path(link: Link, raw: socket.socket, pid: int) -> None:
    link.send(wire.SETTLE, pack({"session": "../../../etc/passwd"}))


def needs_nonsense(link: Link, raw: socket.socket, pid: int) -> None:
    link.send(wire.HELLO, pack({"format": FORMAT, "session": _SESSION, "algorithms": []}))
    link.expect(wire.HELLO)
    link.send(wire.NEEDS, pack({"machine": 7, "files": ["\0"]}))


def sends_pages_without_a_tree(link: Link, raw: socket.socket, pid: int) -> None:
    greet(link)
    link.send(wire.PAGES, pack_pages(1, [(_START, _PAGE)]), bytes(_PAGE))


def sends_pages_for_init(link: Link, raw: socket.socket, pid: int) -> None:
    mapped(link, pid)
    link.send(wire.PAGES, pack_pages(1, [(_START, _PAGE)]), bytes(_PAGE))


def _sends(address: int, length: int, data: int) -> Attack:
    def attack(link: Link, raw: socket.socket, pid: int) -> None:
        mapped(link, pid)
        link.send(wire.PAGES, pack_pages(pid, [(address, length)]), bytes(data))

    return attack


def _maps(start: int, end: int, flags: int = _PLAIN) -> Attack:
    def attack(link: Link, raw: socket.socket, pid: int) -> None:
        tree(link, pid)
        link.send(wire.AREAS, pack_areas(pid, [area(start, end, flags)]))
        link.send(wire.ROUND_END)

    return attack


def maps_for_another(link: Link, raw: socket.socket, pid: int) -> None:
    tree(link, pid)
    link.send(wire.AREAS, pack_areas(1, [area(_START, _START + _PAGE)]))
    link.send(wire.ROUND_END)


def _announces(*members: list[object]) -> Attack:
    def attack(link: Link, raw: socket.socket, pid: int) -> None:
        tree(link, pid, *members)
        link.send(wire.ROUND_END)

    return attack


def _shares(*frames: tuple[int, bytes]) -> Attack:
    def attack(link: Link, raw: socket.socket, pid: int) -> None:
        mapped(link, pid)
        for kind, body in frames:
            link.send(kind, body)

    return attack


def _object(number: object = 1, **values: Any) -> tuple[int, bytes]:
    known = {"number": number, "shmid": 0, "name": "x", "size": 2 * _PAGE, "sealable": True}
    return wire.OBJECT, pack({**known, **values})


def _content(number: int, offset: int, length: int = _PAGE, data: bytes = bytes(_PAGE)) -> tuple[int, bytes]:
    return wire.SHARED, pack_pages(number, [(offset, length)]) + data


def _writes(name: str, size: object = 4, data: bytes = b"1234", again: bool = False) -> Attack:
    def attack(link: Link, raw: socket.socket, pid: int) -> None:
        mapped(link, pid)
        link.send(wire.ROUND_END)
        link.expect(wire.APPLIED)
        for _time in range(2 if again else 1):
            link.send(wire.IMAGE, f"{size} {name}".encode())
            link.send(wire.DATA, data)
        link.send(wire.FINAL)

    return attack


_ATTACKS: dict[str, tuple[Attack, str]] = {
    "HTTP": (speaks_http, "is no frame"),
    "too much": (sends_too_much, "is no frame"),
    "a changed byte": (changes_a_byte, "was changed"),
    "nested": (nests, "makes no sense"),
    "a path as session": (names_a_path, "makes no sense"),
    "a question about a path": (asks_for_a_path, "makes no sense"),
    "needs": (needs_nonsense, "makes no sense"),
    "pages without a tree": (sends_pages_without_a_tree, "none of the tree"),
    "pages for init": (sends_pages_for_init, "none of the tree"),
    "pages outside": (_sends(_START + 4 * _PAGE, _PAGE, _PAGE), "where none can be"),
    "pages across the end": (_sends(_START + 3 * _PAGE, 2 * _PAGE, 2 * _PAGE), "where none can be"),
    "pages at the end of all": (_sends((1 << 64) - _PAGE, _PAGE, _PAGE), "where none can be"),
    "half a page": (_sends(_START + 8, _PAGE, _PAGE), "where none can be"),
    "no content": (_sends(_START, _PAGE, 0), "makes no sense"),
    "the kernel's addresses": (_maps(0xFFFF_8000_0000_0000, 0xFFFF_8000_0000_1000), "makes no sense"),
    "the page at 0": (_maps(0, _PAGE), "makes no sense"),
    "an empty mapping": (_maps(_START, _START), "makes no sense"),
    "shared memory": (_maps(_START, _START + _PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS), "makes no sense"),
    "another's mapping": (maps_for_another, "makes no sense"),
    "init": (_announces([1, 0, 1, 1, 1, 1, 17]), "makes no sense"),
    "us": (_announces([os.getppid(), 0, 0, 0, os.getppid(), os.getppid(), 17]), "cannot be created"),
    "no numbers": (_announces(["x", 0, 0, 0, 0, 0, 0]), "makes no sense"),
    "a tree without a root": (_announces([70001, 70002, 0, 0, 0, 0, 0]), "makes no sense"),
    "an object that is none": (_shares(_object("1")), "makes no sense"),
    "an object without a size": (_shares((wire.OBJECT, pack({"number": 1}))), "makes no sense"),
    "an object of a negative size": (_shares(_object(size=-1)), "makes no sense"),
    "an object larger than memory": (_shares(_object(size=1 << 60)), "makes no sense"),
    "an object with a zero byte": (_shares(_object(name="x\0y")), "makes no sense"),
    "an object with a long name": (_shares(_object(name="x" * 250)), "makes no sense"),
    "an object with half a character": (_shares(_object(name="\ud800")), "makes no sense"),
    "an object twice": (_shares(_object(), _object()), "makes no sense"),
    "two objects as one": (_shares(_object(shmid=5), _object(2, shmid=5)), "makes no sense"),
    "another object in its place": (_shares(_object(), (wire.ROUND_END, b""), _object(name="y")), "makes no sense"),
    "content of no object": (_shares(_object(), _content(2, 0)), "none of the tree's"),
    "content behind the end": (_shares(_object(), _content(1, 2 * _PAGE)), "where it has none"),
    "content across the end": (_shares(_object(), _content(1, _PAGE, 2 * _PAGE, bytes(2 * _PAGE))), "where it has none"),
    "content of half a page": (_shares(_object(), _content(1, 8)), "where it has none"),
    "content without bytes": (_shares(_object(), _content(1, 0, data=b"")), "makes no sense"),
    "holes in no object": (_shares((wire.HOLES, pack_pages(1, [(0, _PAGE)]))), "none of the tree's"),
    "holes of nothing": (_shares(_object(), (wire.HOLES, pack_pages(1, [(0, 0)]))), "where it has none"),
    "a path as image": (_writes("../../x.img"), "which none has"),
    "an absolute path as image": (_writes("/etc/passwd"), "which none has"),
    "a directory as image": (_writes("a/b.img"), "which none has"),
    "a negative size": (_writes("core-1.img", -4), "which none has"),
    "more than announced": (_writes("core-1.img", 2), "more of an image"),
    "less than announced": (_writes("core-1.img", 8), "before it was whole"),
    "an image twice": (_writes("core-1.img", again=True), "cannot be written"),
    "no dump": (_writes("core-1.img"), "no finished dump"),
    "a dump that is none": (_writes("inventory.img"), "inventory"),
}


@pytest.mark.parametrize("name", list(_ATTACKS))
def test_what_is_no_move_is_refused_and_changes_nothing(name: str) -> None:
    attack, why = _ATTACKS[name]
    assert why in refusal(attack)


def _meta(path: object, **values: Any) -> bytes:
    known = {"path": path, "size": 4, "mode": 0o600, "owner": [0, 0], "times": [0, 0], "xattrs": {}, "last": True}
    return pack({**known, **values})


_PART = struct.pack("<QQ", 0, 4) + b"1234"
_FILES: dict[str, tuple[Callable[[str], list[tuple[int, bytes]]], str]] = {
    "elsewhere": (lambda here: [(wire.FILE, _meta("/etc/hostname"))], "is not among what may come"),
    "beside": (lambda here: [(wire.FILE, _meta(f"{here}x"))], "is not among what may come"),
    "the directory": (lambda here: [(wire.FILE, _meta(here))], "is no regular file"),
    "dots": (lambda here: [(wire.FILE, _meta(f"{here}/../x"))], "no absolute path"),
    "relative": (lambda here: [(wire.FILE, _meta("x"))], "no absolute path"),
    "the root": (lambda here: [(wire.FILE, _meta("/"))], "no absolute path"),
    "through a link": (lambda here: [(wire.FILE, _meta(f"{here}/away/passwd"))], "is not among what may come"),
    "a link": (lambda here: [(wire.FILE, _meta(f"{here}/away"))], "is no regular file"),
    "another name": (lambda here: [(wire.FILE, _meta(f"{here}/twice"))], "has other names"),
    "no such directory": (lambda here: [(wire.FILE, _meta(f"{here}/none/x"))], "cannot come to the destination"),
    "no path": (lambda here: [(wire.FILE, _meta(7))], "makes no sense"),
    "a zero byte": (lambda here: [(wire.FILE, _meta(f"{here}/x\0y"))], "makes no sense"),
    "what can be no path": (lambda here: [(wire.FILE, _meta(f"{here}/\ud800"))], "makes no sense"),
    "a negative size": (lambda here: [(wire.FILE, _meta(f"{here}/x", size=-1))], "makes no sense"),
    "more than any disk has": (lambda here: [(wire.FILE, _meta(f"{here}/x", size=(1 << 63) - 1))], "cannot come to the destination"),
    "a mode that is none": (lambda here: [(wire.FILE, _meta(f"{here}/x", mode=0o100600))], "makes no sense"),
    "no owner": (lambda here: [(wire.FILE, _meta(f"{here}/x", owner=["root", 0]))], "makes no sense"),
    "no attributes": (lambda here: [(wire.FILE, _meta(f"{here}/x", xattrs={"user.a": "?"}))], "makes no sense"),
    "a part of none": (lambda here: [(wire.PART, _PART)], "makes no sense"),
    "half a part": (lambda here: [(wire.FILE, _meta(f"{here}/x")), (wire.PART, _PART[:-1])], "makes no sense"),
    "a part behind the end": (lambda here: [(wire.FILE, _meta(f"{here}/x", size=3)), (wire.PART, _PART)], "makes no sense"),
    "and then nothing": (lambda here: [(wire.FILE, _meta(f"{here}/old")), (wire.PART, _PART)], "has closed the connection"),
}


@pytest.mark.parametrize("name", list(_FILES))
def test_files_that_may_not_come_change_nothing(tmp_path: Path, name: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "old").write_text("old")
    (here / "one").write_text("one")
    os.link(here / "one", here / "twice")
    (here / "away").symlink_to("/etc")
    frames, why = _FILES[name]

    def attack(link: Link, raw: socket.socket, pid: int) -> None:
        mapped(link, pid)
        for kind, body in frames(str(here)):
            link.send(kind, body)

    assert why in refusal(attack, [str(here)])
    assert sorted(os.listdir(tmp_path)) == ["here"]
    assert {path.name: path.read_text() for path in here.iterdir() if path.is_file()} == {"old": "old", "one": "one", "twice": "one"}
