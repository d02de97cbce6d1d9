# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""NUMA policies: from which nodes a thread, or a mapping, takes its memory (set_mempolicy(2), mbind(2)).

images: thread_core_entry.stillframe.numa and vma_entry.stillframe.numa; CRIU has no field for them. The home node of a policy
(set_mempolicy_home_node(2)) nobody tells.
"""

from __future__ import annotations

from typing import Any, FrozenSet, List, Optional, Sequence, Tuple

from ..errors import Obstacle
from ..images.schema import message
from ..images.shared_objects import VMA_ANON_SHARED
from ..kernel import procfs
from ..tracee.calls import Call, Out, Reply
from ..tracee.tracee import Tracee
from .batch import Order
from .memory.mapping import VMA_ANON_PRIVATE, VMA_AREA_MEMFD, VMA_AREA_VDSO, VMA_AREA_VSYSCALL, VMA_AREA_VVAR, VMA_FILE_SHARED

# include/uapi/linux/mempolicy.h
MPOL_DEFAULT = 0
_MPOL_F_ADDR = 1 << 1
_MAX_NODES = 1024
"""MAX_NUMNODES of the kernels that have most."""
_ENOSYS = 38  # a kernel without CONFIG_NUMA
_WITH_MEMORY = "/sys/devices/system/node/has_memory"

_HAS_POLICY = VMA_ANON_PRIVATE | VMA_ANON_SHARED | VMA_FILE_SHARED | VMA_AREA_MEMFD
_SPECIAL = VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL

CALLS = (Call("get_mempolicy", (Out(4), Out(_MAX_NODES // 8), _MAX_NODES, 0, 0)),)
"""What tells the policy of a thread."""


def decode(reply: Reply) -> Optional[Any]:
    """Return the stillframe_numa_policy that REPLY tells, None for the default one. Raises OSError."""
    if reply.value == -_ENOSYS:
        return None
    reply.check()
    mode, nodes = int.from_bytes(reply.outs[0], "little"), reply.outs[1].rstrip(b"\0")
    return None if mode == MPOL_DEFAULT else message("stillframe_numa_policy")(mode=mode, nodes=nodes)


def fill_vmas(leader: Tracee, vmas: Sequence[Any]) -> None:
    """Put the policies of the mappings of a stopped process into VMAS, its vma_entry messages. Raises OSError.

    Private mappings of files, most of all there are, are not asked for, nor are special ones.
    """
    starts = {vma.start: vma for vma in vmas if vma.status & _HAS_POLICY and not vma.status & _SPECIAL}
    modes = leader.batch([Call("get_mempolicy", (Out(4), 0, 0, start, _MPOL_F_ADDR)) for start in starts])
    own = [start for start, reply in zip(starts, modes) if reply.value == 0 and any(reply.outs[0])]
    asked = leader.batch([Call("get_mempolicy", (Out(4), Out(_MAX_NODES // 8), _MAX_NODES, start, _MPOL_F_ADDR)) for start in own])
    for start, reply in zip(own, asked):
        fill(starts[start].stillframe, decode(reply))


def fill(extra: Any, policy: Optional[Any]) -> None:
    """Put POLICY into EXTRA, the fields of our own of a thread or a mapping."""
    if policy is not None:
        extra.numa.CopyFrom(policy)


def check(pid: int, entries: Sequence[Any]) -> List[Obstacle]:
    """Return an obstacle where the policies of ENTRIES, of threads or mappings of PID, name nodes that are not here."""
    wanted = {node for entry in entries if entry.stillframe.HasField("numa") for node in _numbers(entry.stillframe.numa.nodes)}
    missing = sorted(wanted - _nodes()) if wanted else []
    if not missing:
        return []
    why = f"it names the nodes {missing}, which have no memory here"
    return [Obstacle(pid, "NUMA policy", why, "restore on a machine that has them, or take the policy back before the dump")]


def _numbers(mask: bytes) -> List[int]:
    bits = int.from_bytes(mask, "little")
    return [node for node in range(bits.bit_length()) if bits >> node & 1]


def _nodes() -> FrozenSet[int]:
    """Return the nodes of this machine that have memory; none without CONFIG_NUMA."""
    try:
        return procfs.ranges(procfs.text(_WITH_MEMORY))
    except FileNotFoundError:
        return frozenset()


def orders(thread_core: Any) -> List[Order]:
    """Return what gives a thread the policy in THREAD_CORE; the default one takes the place of what we have ourselves."""
    if thread_core.stillframe.HasField("numa"):
        return [Order("NUMA policy", [Call("set_mempolicy", _arguments(thread_core.stillframe.numa))])]
    return [Order("NUMA policy", [Call("set_mempolicy", (MPOL_DEFAULT, 0, 0))], must=False)]  # it fails only where there are none


def restore_calls(vmas: Sequence[Any]) -> List[Call]:
    """Return the calls that give VMAS, which have no content yet, their policies."""
    own = (vma for vma in vmas if vma.stillframe.HasField("numa"))
    return [Call("mbind", (vma.start, vma.end - vma.start, *_arguments(vma.stillframe.numa), 0)) for vma in own]


def _arguments(policy: Any) -> Tuple[int, bytes, int]:
    """Return the mode, the mask of nodes and the number of its bits, to which the kernel wants one more."""
    mask = policy.nodes.ljust(-(-max(len(policy.nodes), 1) // 8) * 8, b"\0")
    return policy.mode, mask, len(mask) * 8 + 1
