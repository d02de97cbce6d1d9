# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's messages for memory: mappings, pagemaps and System V IPC. Facts are those of images/*.proto of CRIU 4.2."""

from __future__ import annotations

from collections.abc import Mapping

from .field import Fields, optional, repeated, required

MESSAGES: Mapping[str, Fields] = {
    # images/mm.proto
    "aio_ring_entry": (
        required("uint64", id=1)
        + required("uint32", nr_req=2, ring_len=3)
    ),
    "mm_entry": (
        required(
            "uint64",
            mm_start_code=1, mm_end_code=2, mm_start_data=3, mm_end_data=4, mm_start_stack=5, mm_start_brk=6, mm_brk=7,
            mm_arg_start=8, mm_arg_end=9, mm_env_start=10, mm_env_end=11,
        )
        + required("uint32", exe_file_id=12)
        + repeated("uint64", mm_saved_auxv=13)
        + repeated("vma_entry", vmas=14)
        + optional("int32", dumpable=15)
        + repeated("aio_ring_entry", aios=16)
        + optional("bool", thp_disabled=17)
    ),
    # images/vma.proto
    "vma_entry": (
        required("uint64", start=1, end=2, pgoff=3, shmid=4)
        + required("uint32", prot=5, flags=6, status=7)
        + required("sint64", fd=8)
        + optional("uint64", madv=9)
        + optional("uint32", fdflags=10)
    ),
    # images/pagemap.proto
    "pagemap_head": required("uint32", pages_id=1),
    "pagemap_entry": (
        required("uint64", vaddr=1)
        + required("uint32", compat_nr_pages=2)
        + optional("bool", in_parent=3)
        + optional("uint32", flags=4)
        + optional("uint64", nr_pages=5)
    ),
    # images/ipc-desc.proto
    "ipc_desc_entry": required("uint32", key=1, uid=2, gid=3, cuid=4, cgid=5, mode=6, id=7),
    # images/ipc-msg.proto
    "ipc_msg": (
        required("uint64", mtype=1)
        + required("uint32", msize=2)
    ),
    "ipc_msg_entry": (
        required("ipc_desc_entry", desc=1)
        + required("uint32", qbytes=2, qnum=3)
    ),
    # images/ipc-sem.proto
    "ipc_sem_entry": (
        required("ipc_desc_entry", desc=1)
        + required("uint32", nsems=2)
    ),
    # images/ipc-shm.proto
    "ipc_shm_entry": (
        required("ipc_desc_entry", desc=1)
        + required("uint64", size=2)
        + optional("bool", in_pagemaps=3)
        + optional("uint32", hugetlb_flag=4)
    ),
    # images/ipc-var.proto
    "ipc_var_entry": (
        repeated("uint32", sem_ctls=1)
        + required("uint32", msg_ctlmax=2, msg_ctlmnb=3, msg_ctlmni=4, auto_msgmni=5)
        + required("uint64", shm_ctlmax=6, shm_ctlall=7)
        + required("uint32", shm_ctlmni=8, shm_rmid_forced=9, mq_queues_max=10, mq_msg_max=11, mq_msgsize_max=12)
        + optional("uint32", mq_msg_default=13, mq_msgsize_default=14, msg_next_id=15, sem_next_id=16, shm_next_id=17)
    ),
}

ENUMS: Mapping[str, Mapping[str, int]] = {}

DEFAULTS: Mapping[str, str] = {}
