# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold terminals of KINDS, and answer through the pipes "ask" and "answer" in DIRECTORY whether they are as they were.

usage: terminals.py DIRECTORY KIND,...

"look": whether all that can be told of them without reading is as it was. "read": whether what is read is what was written.

terminals.py lead COMMAND...: be to COMMAND what a shell is to a job.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import termios
import tty
from collections.abc import Callable
from typing import Any

TIOCSPTLCK, TIOCGPTPEER, TIOCGPKT, TIOCGPTLCK, TIOCGEXCL, TIOCPKT = 0x40045431, 0x5441, 0x80045438, 0x80045439, 0x80045440, 0x5420
TIOCSLCKTRMIOS, TIOCGLCKTRMIOS, TCGETS2, TCSETS2, TIOCVHANGUP, TIOCGSID = 0x5457, 0x5456, 0x802C542A, 0x402C542B, 0x5437, 0x5429
QUESTIONS = {"TCGETS2": (TCGETS2, 44), "locked": (TIOCGLCKTRMIOS, 36), "window": (termios.TIOCGWINSZ, 8), "waiting": (termios.FIONREAD, 4)}
QUESTIONS.update({"packets": (TIOCGPKT, 4), "lock": (TIOCGPTLCK, 4), "exclusive": (TIOCGEXCL, 4), "group": (termios.TIOCGPGRP, 4)})
QUESTIONS.update({"session": (TIOCGSID, 4)})
BOTHER, O_LARGEFILE = 0o10000, 0o100000
"""CRIU sets the latter."""

Read = Callable[[], Any]


class Held:
    """The terminals of a kind: descriptors by name, and what reading them has to give."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}
        self.reads: list[tuple[str, Read, Any]] = []

    def pair(self, name: str = "") -> tuple[int, int]:
        """Make a pair, both ends of which do not block."""
        master, slave = os.openpty()
        os.set_blocking(master, False)
        os.set_blocking(slave, False)
        self.fds[f"{name}master"], self.fds[f"{name}slave"] = master, slave
        return master, slave

    def expect(self, name: str, fd: int, *lines: Any) -> None:
        """Expect that reads of FD give LINES, or the names of errors."""
        self.reads.append((name, lambda: tuple(read(fd) for _line in lines), lines))

    def look(self) -> dict[str, Any]:
        """All that can be told without reading."""
        return {f"{name}, {key}": value for name, fd in self.fds.items() for key, value in see(fd).items()}

    def read(self) -> str:
        """What is not as expected, or "ok"."""
        for name, act, expected in self.reads:
            found = act()
            if found != expected:
                return f"{name} gives {found!r}, not {expected!r}"
        return "ok"


def see(fd: int) -> dict[str, Any]:
    status = os.fstat(fd)
    found: dict[str, Any] = {"node": (status.st_rdev, status.st_mode, status.st_uid, status.st_gid)}
    found["path"] = os.readlink(f"/proc/self/fd/{fd}")
    found["flags"] = fcntl.fcntl(fd, fcntl.F_GETFL) & ~O_LARGEFILE, fcntl.fcntl(fd, fcntl.F_GETFD)
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLPRI)
    found["events"] = poll.poll(0)
    for key, (request, size) in QUESTIONS.items():
        try:
            found[key] = fcntl.ioctl(fd, request, bytes(size))
        except OSError as error:
            found[key] = error.errno
    return found


def read(fd: int) -> Any:
    try:
        return os.read(fd, 1 << 16)
    except OSError as error:
        return type(error).__name__ if isinstance(error, BlockingIOError) else error.errno


def settle(fd: int, count: int) -> None:
    """Return when COUNT bytes can be read from FD: the kernel puts them there by a work queue."""
    while struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0] < count:
        os.sched_yield()


def settings(held: Held) -> None:
    """Settings, speeds, window, locks, owner and mode; a slave opened three times, with flags of its own; numbers with a gap."""
    master, slave = held.pair()
    changed = bytearray(fcntl.ioctl(slave, TCGETS2, bytes(44)))
    struct.pack_into("=IIII", changed, 0, termios.ICRNL | termios.IXON, termios.OPOST, termios.CS7 | BOTHER | BOTHER << 16, termios.ISIG)
    changed[17:36] = bytes(range(1, 20))
    struct.pack_into("=II", changed, 36, 1234, 4321)
    fcntl.ioctl(slave, TCSETS2, bytes(changed))
    fcntl.ioctl(slave, TIOCSLCKTRMIOS, struct.pack("=IIII", 1, 4, 0, 8) + bytes([0, 1, 1]) + bytes(17))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=HHHH", 50, 132, 800, 600))
    held.fds["reader"] = os.open(os.ttyname(slave), os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    held.fds["writer"] = os.open(os.ttyname(slave), os.O_WRONLY | os.O_NOCTTY | os.O_APPEND)
    held.fds["copy"] = os.dup(slave)
    os.fchown(slave, 12, 34)
    os.fchmod(slave, 0o642)
    _master, other = held.pair("exclusive ")
    fcntl.ioctl(other, termios.TIOCEXCL)
    between = os.openpty()
    locked, _slave = held.pair("locked ")
    for fd in between:
        os.close(fd)
    fcntl.ioctl(locked, termios.TIOCEXCL)
    fcntl.ioctl(locked, TIOCSPTLCK, struct.pack("=i", 1))


def lines(held: Held) -> None:
    """Lines that nobody has read, some without an end, and their echo."""
    master, slave = held.pair()
    os.write(slave, b"prompt\n")
    for part in (b"one\n", b"two\x04", b"\x04", b"a\x16\x03\x16\x04b\n", b"begun"):
        os.write(master, part)
    fcntl.ioctl(slave, TIOCSLCKTRMIOS, struct.pack("=IIII", 0, 0, 0, termios.ECHO) + bytes(20))
    echo = b"prompt\r\none\r\ntwoa^\x08^C^\x08^Db\r\nbegun"
    settle(master, len(echo))
    held.expect("the slave", slave, b"one\n", b"two", b"", b"a\x03\x04b\n", "BlockingIOError")
    held.expect("the master", master, echo)

    def go_on() -> bytes:
        os.write(master, b"\x7f\x7fan\n")
        settle(slave, 6)
        return bytes(read(slave))

    held.reads.append(("the line that was begun", go_on, b"began\n"))


def binary(held: Held) -> None:
    """Bytes of any kind, both ways."""
    every = bytes(range(256))
    master, slave = held.pair("binary ")
    tty.setraw(slave)
    os.write(master, every)
    os.write(slave, every[::-1])
    settle(slave, len(every))
    settle(master, len(every))
    held.expect("the slave", slave, every)
    held.expect("the master", master, every[::-1])


def raw(held: Held) -> None:
    """Bytes of any kind; a terminal that is full, and has more in front of it; packet mode."""
    binary(held)
    master, slave = held.pair("full ")
    tty.setraw(slave)
    for _part in range(6):
        os.write(master, b"1234567" * 143)
    os.write(slave, b"7654321" * 300)
    held.expect("the full slave", slave, (b"1234567" * 858)[:4095], (b"1234567" * 858)[4095:], "BlockingIOError")
    held.expect("its master", master, b"7654321" * 300)
    master, slave = held.pair("packets ")
    fcntl.ioctl(master, TIOCPKT, struct.pack("=i", 1))
    os.write(slave, b"packet\n")
    held.expect("the master with packets", master, b"\0packet\r\n")
    for name, count in (("full slave", 4095), ("full master", 2100), ("packets master", 8)):
        settle(held.fds[name], count)


def stopped(held: Held) -> None:
    """Output that was stopped, by ^S and by tcflow(3), with what was written before."""
    for name in ("typed ", "ordered "):
        master, slave = held.pair(name)
        os.write(slave, b"before\n")
        settle(master, 8)
        if name == "typed ":
            os.write(master, b"\x13")
            while select.select([], [slave], [], 0)[1]:
                os.sched_yield()
        else:
            termios.tcflow(slave, termios.TCOOFF)
        held.reads.append((name, lambda slave=slave: write(slave, b"x"), "BlockingIOError"))  # type: ignore[misc]
        held.expect(name, master, b"before\r\n")
    held.reads.append(("the start", lambda: start(held), b"after\r\n" * 2))


def start(held: Held) -> bytes:
    """Let the output go on, each as it was stopped."""
    os.write(held.fds["typed master"], b"\x11")
    termios.tcflow(held.fds["ordered slave"], termios.TCOON)
    shown = b""
    for name in ("typed ", "ordered "):
        select.select([], [held.fds[f"{name}slave"]], [], 10)
        os.write(held.fds[f"{name}slave"], b"after\n")
        settle(held.fds[f"{name}master"], 7)
        shown += read(held.fds[f"{name}master"])
    return shown


def write(fd: int, content: bytes) -> Any:
    try:
        return os.write(fd, content)
    except OSError as error:
        return type(error).__name__


def ends(held: Held) -> None:
    """Ends that are alone: a master whose slave was never open, or is closed; slaves that were hung up."""
    unused = held.fds["unused"] = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    held.expect("a master whose slave was never open", unused, "BlockingIOError")
    master, slave = held.pair("closed ")
    os.chown(os.ttyname(slave), 56, 78)
    name = os.ttyname(slave)
    os.write(slave, b"last\n")
    os.close(held.fds.pop("closed slave"))
    settle(master, 6)
    held.expect("a master whose slave was closed", master, b"last\r\n", 5)
    held.reads.append(("the owner of the slave that was closed", lambda: os.stat(name)[4:6], (56, 78)))
    master, _slave = held.pair("hung up ")
    os.close(held.fds.pop("hung up master"))
    held.expect("a slave whose master was closed", held.fds["hung up slave"], b"")
    master, slave = held.pair("reused ")
    fcntl.ioctl(slave, TIOCVHANGUP)
    again = held.fds["reused again"] = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    os.write(master, b"again\n")
    settle(again, 6)
    held.expect("a slave that was hung up", slave, b"")
    held.expect("the same, opened anew", again, b"again\n", "BlockingIOError")


def session(held: Held) -> None:
    """A session with this terminal, a group in the foreground, and /dev/tty; a second one that has closed its terminal."""
    control(held, "", "other ", keeping=True)
    os.close(held.fds.pop("other slave"))
    poll = select.poll()
    poll.register(held.fds["other master"], 0)
    poll.poll()  # until the session has closed it too


def common(held: Held) -> None:
    """What CRIU carries too."""
    binary(held)
    control(held, "")
    fcntl.ioctl(held.fds["master"], termios.TIOCSWINSZ, struct.pack("=HHHH", 50, 132, 800, 600))
    held.fds["again"] = os.open(os.ttyname(held.fds["slave"]), os.O_RDONLY | os.O_NOCTTY)


def control(held: Held, *names: str, keeping: bool = False) -> None:
    """Make sessions, each of a leader and a group in the foreground, for terminals of NAMES; those that have a name are closed in them.

    KEEPING: the others keep /dev/tty open.
    """
    for name in names:
        master, slave = held.pair(name)
        os.set_blocking(slave, True)
        told, tell = os.pipe()
        leader = os.fork()
        if leader == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            lead(slave, tell, bool(name), keeping)
        os.read(told, 1)
        os.close(tell)
        os.close(told)
        held.reads.append((f"{name}interrupt", lambda master=master, leader=leader: interrupt(master, leader), True))  # type: ignore[misc]


def lead(slave: int, tell: int, closing: bool, keeping: bool) -> None:
    """Be the leader of a session: end as told by what becomes of the group in the foreground."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    here = os.open("/dev/tty", os.O_RDWR)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.tcsetpgrp(here, os.getpid())
        if not keeping:
            os.close(here)
        os.write(tell, b"x")
        if closing:
            os.closerange(0, 1024)
        while True:
            signal.pause()
    if closing:
        os.closerange(0, 1024)
    elif not keeping:
        os.close(here)
    _pid, status = os.waitpid(child, 0)
    again = os.open("/dev/tty", os.O_RDWR)
    right = os.tcgetpgrp(again) == child and (closing or os.ttyname(slave) == os.readlink(f"/proc/self/fd/{slave}"))
    os._exit(0 if right and os.WTERMSIG(status) == signal.SIGINT else 1)


def interrupt(master: int, leader: int) -> bool:
    """Type the character that interrupts the group in the foreground; tell whether just that came of it."""
    os.write(master, b"\x03")
    _pid, status = os.waitpid(leader, 0)
    return status == 0


def devices(held: Held) -> None:
    """A virtual terminal and the console, opened as files."""
    for path in ("/dev/tty0", "/dev/tty9", "/dev/tty10", "/dev/console"):
        held.fds[path] = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)


def job(held: Held) -> None:
    """The terminal that this program was started from, in the foreground, and /dev/tty."""
    changed = termios.tcgetattr(0)
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, changed)
    here = os.open("/dev/tty", os.O_RDWR)
    held.reads = [(f"what is typed to {fd}", lambda fd=fd: read(fd), b"typed\n") for fd in (0, here)]  # type: ignore[misc]


def lead_a_job(*command: str) -> None:
    """Be what a shell is: lead a session on the terminal of standard input, and have COMMAND in a group of its own in the foreground."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(command[0], command)
    os.waitpid(child, 0)
    signal.pause()


KINDS = {maker.__name__: maker for maker in (settings, lines, raw, stopped, ends, session, common, devices, job)}


def look(all_held: dict[str, Held]) -> dict[str, Any]:
    return {f"{kind}: {name}": value for kind, held in all_held.items() for name, value in held.look().items()}


def main(directory: str, kinds: str) -> None:
    all_held = {kind: Held() for kind in kinds.split(",")}
    asks, answers = (os.open(f"{directory}/{name}", os.O_RDWR | os.O_CLOEXEC) for name in ("ask", "answer"))
    for kind, held in all_held.items():
        KINDS[kind](held)
    before = look(all_held)
    os.write(answers, b"ready\n")
    while True:
        question = os.read(asks, 100).decode().strip()
        if question == "look":
            after = look(all_held)
            changed = [f"{name}: {before[name]!r} became {after.get(name)!r}" for name in before if before[name] != after.get(name)]
            answer = "; ".join(changed) or "ok"
        else:
            answer = next((wrong for wrong in (held.read() for held in all_held.values()) if wrong != "ok"), "ok")
        os.write(answers, answer.replace("\n", " ").encode() + b"\n")


if __name__ == "__main__" and sys.argv[1] == "lead":
    lead_a_job(*sys.argv[2:])
elif __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
