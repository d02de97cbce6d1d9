# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""One stopped thread, and system calls made by it.

Everything that only the task itself can say or do goes through one mechanism: a batch. A table of system calls is
written into a scratch mapping of the task, the thread runs a loop over it, and the last entry of the table makes the
thread queue a signal to itself that its tracer swallows. The thread's own registers and signal mask are put back right
after each batch. If the tracer dies during one, the thread finishes the table and puts them back itself.
"""

from __future__ import annotations

import mmap
import signal
import struct
from contextlib import contextmanager, suppress
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KernelError, TargetError
from ..kernel import procfs, ptrace
from ..kernel.clone import CLONE_PARENT_SETTID
from ..kernel.kcmp import KCMP_VM, kcmp
from ..kernel.syscall import number
from .arch import x86_64 as arch
from .calls import Argument, Call, Reply, Struct, Table, footprint
from .way_back import Gadgets, WayBack, find_gadgets, lay

SCRATCH_SIZE = 1 << 16
_CODE_SIZE = mmap.PAGESIZE
_FRAME_SPACE = 1 << 14
_TABLE_SPACE = SCRATCH_SIZE - _CODE_SIZE - _FRAME_SPACE
_BELL_MARK = 0x5746_0000_5746  # si_value of our signal to ourselves
_SI_QUEUE = -1
_ALL_SIGNALS = (1 << 64) - 1
_BELLS = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)
"""Signals that do nothing by default, so that one which comes without a tracer is harmless."""


CLONE_ARGS_SET_TID = 64  # offset of set_tid in struct clone_args (include/uapi/linux/sched.h)


def clone_args(flags: int, exit_signal: int) -> bytes:
    """Return the struct clone_args of clone3(2) with one number in set_tid, whose pointer is left to the caller."""
    return struct.pack("<11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 1, 0)


class Scratch(NamedTuple):
    """The mapping that a batch lives in: the loop, the signal frame, the table."""

    address: int

    @property
    def frame(self) -> int:
        return self.address + _CODE_SIZE

    @property
    def table(self) -> int:
        return self.frame + _FRAME_SPACE


class _Loop(NamedTuple):
    """A table that a thread is set to run."""

    table: Table
    bell: int
    size: int

    def replies(self, pid: int) -> List[Reply]:
        """Return the answers, but for the bell's."""
        return self.table.replies(procfs.read_memory(pid, self.table.address, self.size))[:-1]


class Space:
    """What we know of, and keep in, an address space: common to the threads of a process."""

    def __init__(self, scratch: Optional[Scratch] = None, syscall_at: int = 0) -> None:
        self.scratch = scratch
        self.syscall_at = syscall_at
        """Address of a `syscall` instruction that was there before us, 0 when not looked for yet."""
        self.gadgets: Optional[Gadgets] = None
        """The instructions for a way back, None when not looked for yet."""


class Tracee:
    """A thread that is seized and stopped by us."""

    def __init__(self, pid: int, tid: int, options: int = ptrace.O_SYSGOOD) -> None:
        self.pid = pid
        self.tid = tid
        self.options = options
        """The PTRACE_O_… options it was seized with."""
        self.space = Space()
        self.resume_signal = 0
        """The signal to deliver when the thread goes on: one that came while it made our calls."""
        self._children: List[int] = []

    def registers(self) -> arch.Registers:
        """Return the general registers."""
        return arch.unpack(ptrace.get_regset(self.tid, ptrace.NT_PRSTATUS))

    def set_registers(self, registers: arch.Registers) -> None:
        """Replace the general registers."""
        ptrace.set_regset(self.tid, ptrace.NT_PRSTATUS, arch.pack(registers))

    def repeat_interrupted(self) -> None:
        """Let a system call be made again that ended with EINTR only because we stopped the thread, with no handler to run."""
        own = self.registers()
        if arch.never_restarted(own):
            status = procfs.thread_status(self.pid, self.tid)
            if not (status.pending | status.shared_pending) & ~status.blocked & status.caught:
                self.set_registers(arch.made_again(own))

    def call(self, name: str, *args: Argument) -> int:
        """Make one system call and return its result. Raises OSError."""
        return self.batch([Call(name, args)])[0].check()

    def batch(self, calls: Sequence[Call]) -> List[Reply]:
        """Make CALLS in their order, whatever each answers, and return the answers.

        Raises TargetError when the thread is killed meanwhile.
        """
        replies: List[Reply] = []
        for part in _parts(calls):
            replies += self._run(part)
        return replies

    def open_scratch(self, at: int = 0) -> Scratch:
        """Map the memory for batches, at address AT if that is given, unless it is there already."""
        if self.space.scratch is None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (procfs.MAP_FIXED_NOREPLACE if at else 0)
            writable = mmap.PROT_READ | mmap.PROT_WRITE
            try:
                address = self._map(at, SCRATCH_SIZE, writable | mmap.PROT_EXEC, flags)
            except PermissionError:  # PR_SET_MDWE: nothing may be writable and executable; code gets a page of its own
                address = self._map(at, SCRATCH_SIZE, writable, flags)
                self._map(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | procfs.MAP_FIXED)
            self.space.scratch = Scratch(address)
            procfs.write_memory(self.pid, address, arch.LOOP)
        return self.space.scratch

    def _map(self, address: int, size: int, prot: int, flags: int) -> int:
        return self.single("mmap", address, size, prot, flags, (1 << 64) - 1, 0)

    def close_scratch(self) -> None:
        """Unmap the memory for batches."""
        if self.space.scratch is not None:
            self.single("munmap", self.space.scratch.address, SCRATCH_SIZE)
            self.space.scratch = None

    def single(self, name: str, *args: int) -> int:
        """Make one system call without a scratch mapping, by an instruction that the task has already. Raises OSError."""
        own, mask = self.registers(), ptrace.get_sigmask(self.tid)
        with self._way_back(own, mask) as way_back:
            try:
                self.set_registers(arch.at_syscall(own, way_back.call, number(name), *args)._replace(sp=way_back.stack))
                ptrace.set_sigmask(self.tid, _ALL_SIGNALS)
                for _entry_then_exit in range(2):
                    self._to_syscall_stop()
                value = arch.result(self.registers())
            finally:
                self._put_back(own, mask)
        return Reply(Call(name, args), value, ()).check()

    def _way_back(self, own: arch.Registers, mask: int) -> WayBack:
        """Return what brings the thread back should we die: nothing where it would be killed then."""
        if not self.options & ptrace.PTRACE_O_EXITKILL:
            self.space.gadgets = self.space.gadgets or find_gadgets(self.pid)
            xstate = ptrace.get_regset(self.tid, ptrace.NT_X86_XSTATE)
            found = lay(self.pid, self.space.gadgets, own, mask, xstate)
            if found is not None:
                return found
        return WayBack(self.pid, self._syscall_instruction(), own.sp)

    def _put_back(self, own: arch.Registers, mask: int) -> None:
        """Give the thread its own state back: the registers last, for until then it finds the way back by itself."""
        with suppress(ProcessLookupError):  # it was killed
            ptrace.set_sigmask(self.tid, mask)
            self.set_registers(own)

    def _to_syscall_stop(self) -> None:
        while True:
            ptrace.cont_to_syscall(self.tid)
            status = self.await_stop()
            if status.signal == signal.SIGTRAP | 0x80:
                return
            self._note(status)

    def clone(self, name: str, *args: Argument) -> Tracee:
        """Make system call NAME, which creates a thread or process, and return that one, stopped and seized by us."""
        with self._tracing_children():
            self._run([Call(name, args)], creates=True)[0].check()
        return self._new_child(self.options)

    def copy(self, flags: int) -> Tracee:
        """Create a process by clone(2) with FLAGS, without a scratch mapping, and return it, stopped and seized by us. Raises OSError."""
        with self._tracing_children():
            self.single("clone", flags, 0, 0, 0, 0)
        return self._new_child(self.options)

    @contextmanager
    def intermediate(self, flags: int) -> Iterator[Tracee]:
        """Create a process by clone(2) with FLAGS for as long as the context lasts, stopped; its parent, this thread, never sees it.

        The thread waits for it in the same batch that creates it: also when we die, in which case the process just ends.
        Raises OSError.
        """
        table = self.open_scratch().table
        awaited = table + arch.ENTRY.size + 8  # the first argument of wait4: our own PID, no child's, until clone has put the child's there
        calls = [Call("clone", (flags | CLONE_PARENT_SETTID, 0, awaited)), Call("wait4", (self.pid, 0, ptrace.WALL, 0))]
        with self._in_loop(calls, creates=True) as loop:
            with self._tracing_children():
                if not self._run_to_child(loop.bell):
                    loop.replies(self.pid)[0].check()
                child = self._new_child(self.options | ptrace.PTRACE_O_EXITKILL)
            try:
                yield child
            finally:
                child.exit()
                self._run_to_bell(loop.bell)

    @contextmanager
    def _tracing_children(self) -> Iterator[None]:
        ptrace.set_options(self.tid, self.options | ptrace.O_TRACE_CHILDREN)
        try:
            yield
        finally:
            ptrace.set_options(self.tid, self.options)

    def _new_child(self, options: int) -> Tracee:
        tid = self._children.pop()
        ptrace.wait(tid)
        ptrace.set_options(tid, options)
        child = Tracee(procfs.thread_group(tid), tid, options)
        child.space = self.space if _shares_memory(self.pid, tid) else Space(self.space.scratch, self.space.syscall_at)
        return child

    def clone3(self, flags: int, exit_signal: int, tid: int) -> Tracee:
        """Create a thread or process with the number TID (clone3(2), set_tid: Linux 5.5) and return it, stopped. Raises OSError."""
        args = clone_args(flags, exit_signal)
        return self.clone("clone3", Struct(args, ((CLONE_ARGS_SET_TID, struct.pack("<i", tid)),)), len(args))

    def execute(self, path: str) -> None:
        """Execute the program at PATH, and stop before its first instruction: a new, clean address space. Raises OSError."""
        scratch = self.open_scratch()
        procfs.write_memory(self.pid, scratch.table, path.encode() + b"\0")
        own = self.registers()
        at = self._syscall_instruction()
        self.set_registers(arch.at_syscall(own, at, number("execve"), scratch.table, 0, 0))
        ptrace.set_options(self.tid, self.options | ptrace.O_TRACEEXEC)
        self._to_syscall_stop()
        ptrace.cont_to_syscall(self.tid)
        if self.await_stop().event != ptrace.EVENT_EXEC:
            Reply(Call("execve"), arch.result(self.registers()), ()).check()
        self._to_syscall_stop()
        ptrace.set_options(self.tid, self.options)
        self.space = Space()

    def suspend_seccomp(self) -> None:
        """Keep seccomp from the thread, and from those that it creates, as long as they are traced. Raises OSError."""
        self.options |= ptrace.PTRACE_O_SUSPEND_SECCOMP
        ptrace.set_options(self.tid, self.options)

    def moved(self) -> None:
        """Take note that the mappings of the process were moved."""
        self.space.syscall_at = 0

    def _syscall_instruction(self) -> int:
        self.space.syscall_at = self.space.syscall_at or find_syscall_instruction(self.pid)
        return self.space.syscall_at

    def exit(self, code: int = 0) -> None:
        """End the thread by exit(2) with CODE, and wait until it is gone for us; so is a process without an exit signal, for all."""
        own = self.registers()
        at = self._syscall_instruction()
        self.set_registers(arch.at_syscall(own, at, number("exit"), code))
        ptrace.cont(self.tid)
        while ptrace.wait(self.tid).stopped:
            ptrace.cont(self.tid)

    def detach(self, signo: int = 0) -> None:
        """Let the thread go on, with SIGNO or the signal that came meanwhile."""
        ptrace.detach(self.tid, signo or self.resume_signal)

    def _run(self, calls: Sequence[Call], creates: bool = False) -> List[Reply]:
        with self._in_loop(calls, creates) as loop:
            self._run_to_bell(loop.bell)
        return loop.replies(self.pid)

    @contextmanager
    def _in_loop(self, calls: Sequence[Call], creates: bool) -> Iterator[_Loop]:
        """Set the thread at the start of the loop over CALLS, and back to where it was."""
        scratch = self.open_scratch()
        own, mask = self.registers(), ptrace.get_sigmask(self.tid)
        bell, ring = self._bell()
        table = Table([*calls, ring], scratch.table)
        frame, stack = arch.signal_frame(own, mask, ptrace.get_regset(self.tid, ptrace.NT_X86_XSTATE), scratch.frame)
        content = table.pack()
        procfs.write_memory(self.pid, scratch.frame, frame)
        procfs.write_memory(self.pid, scratch.table, content)
        try:
            self.set_registers(arch.at_loop(own, scratch.address, table.address, table.end, stack, creates))
            ptrace.set_sigmask(self.tid, _ALL_SIGNALS & ~(1 << bell - 1))
            yield _Loop(table, bell, len(content))
        finally:
            self._put_back(own, mask)

    def _bell(self) -> Tuple[int, Call]:
        """Return the number of a signal that nothing awaits now, and the call by which the thread sends it to itself."""
        status = procfs.thread_status(self.pid, self.tid)
        busy = status.pending | status.shared_pending
        free = [bell for bell in _BELLS if not busy >> bell - 1 & 1]
        if not free:
            raise KernelError(f"thread {self.tid} has all of SIGURG, SIGWINCH and SIGCHLD pending; try again later")
        bell = min(free, key=lambda bell: status.caught >> bell - 1 & 1)
        info = struct.pack("<iiiiiiQ", bell, 0, _SI_QUEUE, 0, status.own_pid, 0, _BELL_MARK).ljust(ptrace.SIGINFO_SIZE, b"\0")
        return bell, Call("rt_tgsigqueueinfo", (status.own_pid, status.own_tid, bell, info))

    def _run_to_bell(self, bell: int) -> None:
        while not self._run_on(bell):
            pass

    def _run_to_child(self, bell: int) -> bool:
        """Let the thread run until it has created a child; return whether it has."""
        ended = False
        while not self._children and not ended:
            ended = self._run_on(bell)
        return bool(self._children)

    def _run_on(self, bell: int) -> bool:
        """Let the thread run to its next stop; return whether it is at the end of its table."""
        ptrace.cont(self.tid)
        status = self.await_stop()
        if status.signal == bell and not status.event and self._rung():
            return True
        self._note(status)
        return status.signal == bell and arch.loop_ended(self.registers())

    def _rung(self) -> bool:
        return ptrace.get_siginfo(self.tid)[24:32] == struct.pack("<Q", _BELL_MARK)

    def _note(self, status: ptrace.Status) -> None:
        """Take note of a new child, or keep a signal that is not ours for when the thread goes on: SIGSTOP or the bell's."""
        if status.event in ptrace.CHILD_EVENTS:
            self._children.append(ptrace.event_message(self.tid))
        elif not status.event and status.signal != signal.SIGTRAP:
            self.resume_signal = status.signal

    def await_stop(self) -> ptrace.Status:
        """Return at which stop the thread has arrived. Raises TargetError when it was killed."""
        status = ptrace.wait(self.tid)
        if not status.stopped:
            raise TargetError(
                f"thread {self.tid} of process {self.pid} was killed while it was being dumped; start over when it runs again"
            )
        return status


def _shares_memory(pid: int, tid: int) -> bool:
    """Tell whether thread or process TID, just created by PID, has the same address space."""
    return not kcmp(pid, tid, KCMP_VM)


def _parts(calls: Sequence[Call]) -> Iterator[List[Call]]:
    """Split CALLS so that each part, with the bell, fits into the scratch mapping."""
    room = _TABLE_SPACE - 2 * arch.ENTRY.size - ptrace.SIGINFO_SIZE
    part: List[Call] = []
    used = 0
    for call in calls:
        size = footprint(call)
        if size > room:
            raise KernelError(f"{call.name} with {size} bytes of arguments does not fit into a batch of {room} bytes")
        if used + size > room:
            yield part
            part, used = [], 0
        part.append(call)
        used += size
    if part:
        yield part


def find_syscall_instruction(pid: int) -> int:
    """Return the address of a `syscall` instruction that PID has mapped executable: in its vDSO, else anywhere."""
    areas = [area for area in procfs.maps(pid) if "x" in area.perms and "r" in area.perms]
    areas.sort(key=lambda area: area.name != "[vdso]")
    for area in areas:
        if area.name == "[vsyscall]":
            continue
        found = procfs.read_memory(pid, area.start, min(area.end - area.start, 1 << 21)).find(arch.SYSCALL_INSTRUCTION)
        if found >= 0:
            return area.start + found
    raise KernelError(f"process {pid} has no system-call instruction mapped: it cannot be asked anything; it is not dumpable")
