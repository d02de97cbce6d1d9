# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Services in a mount namespace such as systemd makes: through a chain, from each of its dumps, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _engine.dump import plan
from _engine.images.image import ImagesDir
from _engine.options import DumpOptions, RestoreOptions
from _engine.restore import plan as plan_restore

from look import assert_same, look, tree
from victim import PROGRAMS, Lab, Victim, read_line, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it mounts")


@dataclass(frozen=True)
class Sandbox:
    """Where the sandboxes of one test have their files."""

    lab: Lab
    state: Path
    """A directory that is to be seen, and written to, from within."""
    private: Path
    """Where the private /tmp is outside."""

    def enter(self, *command: object, before: str = "") -> int:
        """Start COMMAND in a sandbox, in which the shell commands BEFORE were run; return its PID."""
        script = f'{before}\nexec sh {PROGRAMS}/sandbox.sh "$@"'
        words = ["unshare", "--uts", "--mount", "--propagation", "slave", "sh", "-ec", script, "sh", self.private, self.state, *command]
        with open(self.state / "errors", "wb") as errors:
            return self.lab.spawn(list(map(str, words)), stderr=errors, env=os.environ | {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}).pid

    def service(self, before: str = "") -> Victim:
        """Start sandboxed.py and wait until it is ready."""
        for name in ("ask", "answer"):
            os.mkfifo(self.state / name)
        answers = os.open(self.state / "answer", os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = self.enter(os.path.realpath(sys.executable), "-I", PROGRAMS / "sandboxed.py", self.state, before=before)
            assert read_line(answers, pid) == "ready", (self.state / "errors").read_text()
        finally:
            os.close(answers)
        return Victim(self.state, pid)

    def end(self, pid: int) -> None:
        """End the tree under PID, and with it what systemd removes when a unit ends."""
        self.lab.end(pid)
        shutil.rmtree(self.private)


@pytest.fixture
def sandbox(lab: Lab) -> Iterator[Sandbox]:
    """A place for sandboxes; nothing of it stays."""
    state = Path(tempfile.mkdtemp(prefix="stillframe-", dir="/run"))
    state.chmod(0o755)
    private = Path("/tmp", f"systemd-private-{state.name}")
    try:
        yield Sandbox(lab, state, private)
    finally:
        lab.reap()
        shutil.rmtree(state)
        shutil.rmtree(private, ignore_errors=True)


def mounts(pid: int) -> list[str]:
    """The mounts of PID, without the numbers that the kernel gives; those that other tests make meanwhile are left out."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    found = [re.sub(r"(shared|master):\d+", r"\1", re.sub(r"^\d+ \d+ \d+:\d+ ", "", line)) for line in lines]
    return sorted(line for line in found if "/pytest-of-" not in line)


def outside(sandbox: Sandbox) -> list[str]:
    """What SANDBOX could have changed outside: mounts where it has its own, names in /tmp."""
    places = {"/", "/dev", "/dev/pts", "/dev/shm", "/etc/hostname", "/media", "/proc", "/srv", "/sys", "/tmp", "/usr", str(sandbox.state)}
    names = [name for name in os.listdir("/tmp") if name.startswith(sandbox.private.name)]
    return names + [line for line in mounts(os.getpid()) if line.split()[1] in places]


PIVOTED = """
mkdir "$2/root"
mount --rbind / "$2/root"
cd "$2/root"
pivot_root . .
umount -l .
export PROPAGATION=shared
"""
"""As systemd does it: in a copy of all mounts, which becomes the root."""


@pytest.mark.parametrize("before", ["", PIVOTED], ids=["unshared", "pivoted"])
def test_each_dump_of_a_chain_is_restored(sandbox: Sandbox, before: str) -> None:
    lab, victim = sandbox.lab, sandbox.service(before)
    seen, dumps = mounts(victim.pid), []
    assert any("shared" in line.split(" - ")[0] for line in seen) == bool(before)
    for number in (1, 2, 3):
        assert victim.ask("grow") == "ok"
        victim.await_rest()
        looked = look(victim.pid)
        parent = ("--prev-images-dir", f"../{number - 1}") if number > 1 else ()
        left = ("--leave-running",) if number < 3 else ()
        dumps.append((lab.dump(victim.pid, str(number), "--track-mem", *parent, *left), looked))
        if number < 3:
            victim.await_rest()
            assert_same(looked, look(victim.pid))
            assert victim.ask() == "ok" and mounts(victim.pid) == seen
    for images, looked in dumps:
        sandbox.end(victim.pid)
        lab.restore(images)
        victim.await_rest()
        assert_same(looked, look(victim.pid))
        assert mounts(victim.pid) == seen
        assert victim.ask() == "ok"
        assert os.path.samestat(os.stat(f"/proc/{victim.pid}/fd/0"), os.stat("/dev/null")), "opened outside, and not there again"
        private = os.stat(sandbox.private), os.stat(sandbox.private / "tmp"), os.stat(sandbox.private / "tmp/dir/file")
        assert [oct(found.st_mode) for found in private] == ["0o40700", "0o41777", "0o100604"] and private[2].st_uid == 65534
        assert os.path.samestat(private[2], os.stat(f"/proc/{victim.pid}/root/tmp/link"))
    assert victim.ask("grow") == "ok" and victim.ask() == "ok"
    images = lab.dump(victim.pid, "again", "--track-mem", "--prev-images-dir", "../3")
    sandbox.end(victim.pid)
    lab.restore(images)
    assert victim.ask() == "ok" and mounts(victim.pid) == seen


def test_a_root_inside_is_restored(lab: Lab) -> None:
    program = "import os, time; os.chroot('/srv/jail'); os.fork(); os.chdir('/'); time.sleep(1e6)"
    script = 'mount -t tmpfs none /srv; mkdir /srv/jail; exec "$@"'
    pid = lab.spawn(["unshare", "--mount", "sh", "-ec", script, "sh", os.path.realpath(sys.executable), "-Ic", program]).pid
    until(lambda: len(tree(pid)) == 2 and all(os.readlink(f"/proc/{one}/cwd") == "/srv/jail" for one in tree(pid)), "they have no root")
    pids, seen = tree(pid), mounts(pid)
    images = lab.dump(pid, "1")
    lab.reap()
    lab.restore(images)
    assert tree(pid) == pids
    assert [os.readlink(f"/proc/{one}/{name}") for one in pids for name in ("root", "cwd")] == ["/srv/jail"] * 4
    assert mounts(pid) == seen and not os.path.exists("/srv/jail")
    assert len({os.readlink(f"/proc/{one}/ns/mnt") for one in pids}) == 1


def test_a_private_directory_that_is_still_there_is_used(sandbox: Sandbox) -> None:
    victim = sandbox.service()
    images = sandbox.lab.dump(victim.pid, "1")
    sandbox.lab.reap()
    before = os.stat(sandbox.private / "tmp/dir/file")
    sandbox.lab.restore(images)
    assert os.path.samestat(before, os.stat(sandbox.private / "tmp/dir/file"))
    assert victim.ask() == "ok"


def test_a_check_and_a_failed_restore_leave_nothing(sandbox: Sandbox) -> None:
    victim = sandbox.service()
    images = sandbox.lab.dump(victim.pid, "1")
    sandbox.end(victim.pid)
    before = outside(sandbox)
    assert plan_restore(RestoreOptions(images_dir=str(images))).obstacles == ()
    assert outside(sandbox) == before
    with open(images / "pages-1.img", "r+b") as pages:
        first = pages.read(1)
        pages.seek(0)
        pages.write(bytes([first[0] ^ 1]))
    done = sandbox.lab.engine("restore", "--images-dir", images, "--restore-detached")
    assert done.returncode and "pages-1.img" in done.stderr
    assert outside(sandbox) == before and not os.path.exists(f"/proc/{victim.pid}")


def test_a_restore_says_which_mount_it_cannot_make(sandbox: Sandbox) -> None:
    victim = sandbox.service()
    images = sandbox.lab.dump(victim.pid, "1")
    sandbox.end(victim.pid)
    shutil.rmtree(sandbox.state / "build/inaccessible")
    (obstacle,) = plan_restore(RestoreOptions(images_dir=str(images))).obstacles
    assert obstacle.where == "mount /media" and str(sandbox.state / "build/inaccessible") in obstacle.why


REFUSED = {
    "mount -t ramfs none /srv": ("mount /srv", "a filesystem (ramfs)"),
    "mount -t tmpfs none /srv; truncate -s 70M /srv/big": ("mount /srv", "73400320 bytes"),
    "mount -t tmpfs one /srv; mount -t tmpfs two /srv": ("mount /srv", "hides its files"),
    "mkdir /run/$$; mount --bind /run/$$ /srv; rmdir /run/$$": ("mount /srv", "was removed"),
    "unshare --mount sleep 1000 & until [ -e /proc/$!/ns ] && [ $(readlink /proc/$!/ns/mnt) != $(readlink /proc/$$/ns/mnt) ]; do :; done": (
        "mount namespace",
        "different ones",
    ),
    "mount -t tmpfs none /mnt; cd /mnt; mkdir old; pivot_root . old": ("mount namespace", "its root"),
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_refused(lab: Lab, command: str) -> None:
    where, why = REFUSED[command]
    words = ["unshare", "--mount", "sh", "-ec", f"{command}\necho ready\nread line"]
    process = lab.spawn(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdin
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"ready\n"
        found = plan(DumpOptions(tree=process.pid, images_dir="")).obstacles
        assert [obstacle.where for obstacle in found if why in obstacle.why] == [where], found
        lab.end(process.pid)


def test_a_socket_bound_outside_is_refused(lab: Lab, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        pid = lab.spawn(["unshare", "--mount", "sleep", "1000"], pass_fds=(listening.fileno(),)).pid
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "it does not sleep")
    (found,) = plan(DumpOptions(tree=pid, images_dir="")).obstacles
    assert "bound outside" in found.why


def test_other_namespaces_of_a_dump_are_refused_by_name(lab: Lab) -> None:
    process = lab.spawn(["sleep", "1000"])
    images = lab.dump(process.pid, "1")
    lab.reap()
    directory = ImagesDir(str(images))
    ids = directory.read(f"ids-{process.pid}")
    ids[0].net_ns_id += 20  # type: ignore[attr-defined]
    ids[0].mnt_ns_id += 20  # type: ignore[attr-defined]
    directory.write(f"ids-{process.pid}", ids)
    os.unlink(images / "stillframe.json")  # as if CRIU had made it
    found = plan_restore(RestoreOptions(images_dir=str(images))).obstacles
    assert [obstacle.where for obstacle in found] == ["network namespace", "mount namespace"]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server")
def test_redis_in_a_sandbox(sandbox: Sandbox) -> None:
    path = sandbox.state / "redis.sock"
    words = ("--port", "0", "--unixsocket", path, "--dir", "/tmp", "--appendonly", "yes", "--save", "")
    pid = sandbox.enter(shutil.which("redis-server") or "", *words, before="echo of-redis >/proc/sys/kernel/hostname")

    def ask(command: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(f"{command}\r\n".encode())
            return client.recv(100).decode()

    until(path.exists, "redis does not start")
    until(lambda: ask("PING") == "+PONG\r\n", "redis does not answer")
    assert ask("SET key one") == "+OK\r\n"
    seen = mounts(pid)
    dumps = [sandbox.lab.dump(pid, "1", "--track-mem", "--leave-running")]
    assert ask("SET key two") == "+OK\r\n"
    dumps.append(sandbox.lab.dump(pid, "2", "--track-mem", "--prev-images-dir", "../1"))
    for images, value in zip(dumps, ("one", "two")):
        sandbox.end(pid)
        sandbox.lab.restore(images)
        assert ask("GET key") == f"$3\r\n{value}\r\n"
        assert mounts(pid) == seen
        assert ask("SET key three") == "+OK\r\n"
        log = sandbox.private / "tmp/appendonlydir/appendonly.aof.1.incr.aof"
        until(lambda log=log: "three" in log.read_text(), "it does not write its log")  # type: ignore[misc]
        assert subprocess.check_output(["nsenter", "--target", str(pid), "--uts", "hostname"]) == b"of-redis\n"
