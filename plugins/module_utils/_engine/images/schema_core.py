# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's messages for tasks and threads: inventory, process tree, registers, signals, timers, limits, credentials.

Facts are those of images/*.proto of CRIU 4.2. Of the architectures, x86 and aarch64 are described; the thread
information of others is kept as unknown fields.
"""

from __future__ import annotations

from collections.abc import Mapping

from .field import Fields, optional, repeated, required

MESSAGES: Mapping[str, Fields] = {
    # images/inventory.proto
    "plugins_entry": repeated("string", plugins=12),
    "inventory_entry": (
        required("uint32", img_version=1)
        + optional("bool", fdinfo_per_id=2)
        + optional("task_kobj_ids_entry", root_ids=3)
        + optional("bool", ns_per_id=4)
        + optional("uint32", root_cg_set=5)
        + optional("lsmtype", lsmtype=6)
        + optional("uint64", dump_uptime=8)
        + optional("uint32", pre_dump_mode=9)
        + optional("bool", tcp_close=10)
        + optional("uint32", network_lock_method=11)
        + optional("plugins_entry", plugins_entry=12)
        + optional("string", dump_criu_run_id=13)
        + optional("bool", allow_uprobes=14)
    ),
    # images/pstree.proto
    "pstree_entry": (
        required("uint32", pid=1, ppid=2, pgid=3, sid=4)
        + repeated("uint32", threads=5)
    ),
    # images/core.proto
    "task_core_entry": (
        required("uint32", task_state=1, exit_code=2, personality=3, flags=4)
        + required("uint64", blk_sigset=5)
        + required("string", comm=6)
        + optional("task_timers_entry", timers=7)
        + optional("task_rlimits_entry", rlimits=8)
        + optional("uint32", cg_set=9)
        + optional("signal_queue_entry", signals_s=10)
        + optional("seccomp_mode", old_seccomp_mode=11)
        + optional("uint32", old_seccomp_filter=12, loginuid=13)
        + optional("int32", oom_score_adj=14)
        + repeated("sa_entry", sigactions=15)
        + optional("bool", child_subreaper=18)
        + optional("uint64", blk_sigset_extended=20)
        + optional("uint32", stop_signo=21, membarrier_registration_mask=22)
    ),
    "task_kobj_ids_entry": (
        required("uint32", vm_id=1, files_id=2, fs_id=3, sighand_id=4)
        + optional(
            "uint32",
            pid_ns_id=5, net_ns_id=6, ipc_ns_id=7, uts_ns_id=8, mnt_ns_id=9, user_ns_id=10, cgroup_ns_id=11, time_ns_id=12,
        )
    ),
    "thread_sas_entry": (
        required("uint64", ss_sp=1, ss_size=2)
        + required("uint32", ss_flags=3)
    ),
    "thread_core_entry": (
        required("uint64", futex_rla=1)
        + required("uint32", futex_rla_len=2)
        + optional("sint32", sched_nice=3)
        + optional("uint32", sched_policy=4, sched_prio=5)
        + optional("uint64", blk_sigset=6)
        + optional("thread_sas_entry", sas=7)
        + optional("uint32", pdeath_sig=8)
        + optional("signal_queue_entry", signals_p=9)
        + optional("creds_entry", creds=10)
        + optional("seccomp_mode", seccomp_mode=11)
        + optional("uint32", seccomp_filter=12)
        + optional("string", comm=13)
        + optional("uint64", blk_sigset_extended=14)
        + optional("rseq_entry", rseq_entry=15)
        + optional("uint32", cg_set=16)
    ),
    "task_rlimits_entry": repeated("rlimit_entry", rlimits=1),
    "core_entry": (
        required("core_entry.march", mtype=1)
        + optional("thread_info_x86", thread_info=2)
        + optional("thread_info_aarch64", ti_aarch64=8)
        + optional("task_core_entry", tc=3)
        + optional("task_kobj_ids_entry", ids=4)
        + optional("thread_core_entry", thread_core=5)
    ),
    # images/core-x86.proto
    "user_x86_regs_entry": (
        required(
            "uint64",
            r15=1, r14=2, r13=3, r12=4, bp=5, bx=6, r11=7, r10=8, r9=9, r8=10, ax=11, cx=12, dx=13, si=14, di=15,
            orig_ax=16, ip=17, cs=18, flags=19, sp=20, ss=21, fs_base=22, gs_base=23, ds=24, es=25, fs=26, gs=27,
        )
        + optional("user_x86_regs_mode", mode=28)
    ),
    "user_x86_cet_entry": required("uint64", cet=1, ssp=2),
    "user_x86_xsave_entry": (
        required("uint64", xstate_bv=1)
        + repeated("uint32", ymmh_space=2)
        + repeated("uint64", bndreg_state=3, bndcsr_state=4, opmask_reg=5, zmm_upper=6, hi16_zmm=7)
        + repeated("uint32", pkru=8)
        + optional("user_x86_cet_entry", cet=9)
    ),
    "user_x86_fpregs_entry": (
        required("uint32", cwd=1, swd=2, twd=3, fop=4)
        + required("uint64", rip=5, rdp=6)
        + required("uint32", mxcsr=7, mxcsr_mask=8)
        + repeated("uint32", st_space=9, xmm_space=10, padding=11)
        + optional("user_x86_xsave_entry", xsave=13)
    ),
    "user_desc_t": (
        required("uint32", entry_number=1, base_addr=2, limit=3)
        + required(
            "bool",
            seg_32bit=4, contents_h=5, contents_l=6, read_exec_only=7, limit_in_pages=8, seg_not_present=9, usable=10,
        )
    ),
    "thread_info_x86": (
        required("uint64", clear_tid_addr=1)
        + required("user_x86_regs_entry", gpregs=2)
        + required("user_x86_fpregs_entry", fpregs=3)
        + repeated("user_desc_t", tls=4)
    ),
    # images/core-aarch64.proto
    "user_aarch64_regs_entry": (
        repeated("uint64", regs=1)
        + required("uint64", sp=2, pc=3, pstate=4)
    ),
    "user_aarch64_fpsimd_context_entry": (
        repeated("uint64", vregs=1)
        + required("uint32", fpsr=2, fpcr=3)
    ),
    "pac_address_keys": required(
        "uint64",
        apiakey_lo=1, apiakey_hi=2, apibkey_lo=3, apibkey_hi=4, apdakey_lo=5, apdakey_hi=6, apdbkey_lo=7, apdbkey_hi=8,
        pac_enabled_key=9,
    ),
    "pac_generic_keys": required("uint64", apgakey_lo=1, apgakey_hi=2),
    "pac_keys": (
        optional("pac_address_keys", pac_address_keys=6)
        + optional("pac_generic_keys", pac_generic_keys=7)
    ),
    "thread_info_aarch64": (
        required("uint64", clear_tid_addr=1, tls=2)
        + required("user_aarch64_regs_entry", gpregs=3)
        + required("user_aarch64_fpsimd_context_entry", fpsimd=4)
        + optional("pac_keys", pac_keys=5)
    ),
    # images/creds.proto
    "creds_entry": (
        required("uint32", uid=1, gid=2, euid=3, egid=4, suid=5, sgid=6, fsuid=7, fsgid=8)
        + repeated("uint32", cap_inh=9, cap_prm=10, cap_eff=11, cap_bnd=12)
        + required("uint32", secbits=13)
        + repeated("uint32", groups=14)
        + optional("string", lsm_profile=15, lsm_sockcreate=16)
        + optional("bytes", apparmor_data=17)
        + optional("uint32", no_new_privs=18)
        + repeated("uint32", cap_amb=19)
    ),
    # images/rlimit.proto
    "rlimit_entry": required("uint64", cur=1, max=2),
    # images/rseq.proto
    "rseq_entry": (
        required("uint64", rseq_abi_pointer=1)
        + required("uint32", rseq_abi_size=2, signature=3)
        + optional("uint64", rseq_cs_pointer=4)
    ),
    # images/sa.proto
    "sa_entry": (
        required("uint64", sigaction=1, flags=2, restorer=3, mask=4)
        + optional("bool", compat_sigaction=5)
        + optional("uint64", mask_extended=6)
    ),
    # images/siginfo.proto
    "siginfo_entry": required("bytes", siginfo=1),
    "signal_queue_entry": repeated("siginfo_entry", signals=1),
    # images/timer.proto
    "itimer_entry": required("uint64", isec=1, iusec=2, vsec=3, vusec=4),
    "posix_timer_entry": (
        required("uint32", it_id=1, clock_id=2, si_signo=3, it_sigev_notify=4)
        + required("uint64", sival_ptr=5)
        + required("uint32", overrun=6)
        + required("uint64", isec=7, insec=8, vsec=9, vnsec=10)
        + optional("int32", notify_thread_id=11)
    ),
    "task_timers_entry": (
        required("itimer_entry", real=1, virt=2, prof=3)
        + repeated("posix_timer_entry", posix=4)
    ),
    # images/seccomp.proto
    "seccomp_filter": (
        required("bytes", filter=1)
        + optional("uint32", prev=2, flags=3)
    ),
    "seccomp_entry": repeated("seccomp_filter", seccomp_filters=1),
}

ENUMS: Mapping[str, Mapping[str, int]] = {
    "lsmtype": {"NO_LSM": 0, "SELINUX": 1, "APPARMOR": 2},
    "seccomp_mode": {"disabled": 0, "strict": 1, "filter": 2},
    "core_entry.march": {
        "UNKNOWN": 0, "X86_64": 1, "ARM": 2, "AARCH64": 3, "PPC64": 4, "S390": 5, "MIPS": 6, "LOONGARCH64": 7, "RISCV64": 8,
    },
    "user_x86_regs_mode": {"NATIVE": 1, "COMPAT": 2},
}

DEFAULTS: Mapping[str, str] = {
    "user_x86_regs_entry.mode": "NATIVE",
    "user_desc_t.read_exec_only": "true",
    "user_desc_t.seg_not_present": "true",
}
