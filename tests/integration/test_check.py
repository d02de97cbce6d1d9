# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The probes of this machine's kernel, and what they say when the kernel refuses."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from _engine.check import NAMES, OPTIONAL, REQUIRED, UNUSED, check
from _engine.errors import UsageError

ROOT = Path(__file__).parent.parent.parent

# criu/cr-check.c of CRIU 4.2
_LIST = """
mnt_id mem_dirty_track aio_remap timerfd tun tun_ns userns fdinfo_lock seccomp_suspend seccomp_filters loginuid cgroupns autofs
tcp_half_closed compat_cr uffd uffd-noncoop can_map_vdso sk_ns sk_unix_file net_diag_raw nsid link_nsid kcmp_epoll timens
external_net_ns clone3_set_tid newifindex nftables has_ipt_legacy pidfd_store ns_pid apparmor_stacking network_lock_nftables
sockopt_buf_lock memfd_hugetlb move_mount_set_group openat2 get_rseq_conf ipv6_freebind pagemap_scan timer_cr_ids overlayfs_maps
breakpoints pagemap_scan_guard_pages
"""
CRIU_FEATURES = _LIST.split()

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the probes use CAP_CHECKPOINT_RESTORE")


def kernel_has(option: str) -> bool | None:
    """Whether the running kernel was built with OPTION; None when it does not tell."""
    try:
        import gzip

        with gzip.open("/proc/config.gz", "rt") as config:
            return f"{option}=y" in config.read().split()
    except OSError:
        return None


def test_every_feature_of_criu_has_an_answer() -> None:
    assert set(CRIU_FEATURES) <= set(NAMES)


@needs_root
def test_all_that_is_required_works_here() -> None:
    assert [feature for feature in check() if feature.category == REQUIRED and not feature.ok] == []


@needs_root
def test_the_trackers_are_answered_as_the_kernel_was_built() -> None:
    answers = {feature.name: feature.ok for feature in check(("uffd_wp", "soft_dirty", "compare", "mem_dirty_track"))}
    assert answers["compare"]
    assert answers["mem_dirty_track"] == (answers["uffd_wp"] or answers["soft_dirty"])
    built = kernel_has("CONFIG_MEM_SOFT_DIRTY")
    if built is not None:
        assert answers["soft_dirty"] == built


def test_what_is_unused_is_answered_no_with_the_reason() -> None:
    unused = [feature for feature in check() if feature.category == UNUSED]
    assert unused
    assert all(not feature.ok and feature.detail for feature in unused)


def test_an_unknown_feature_is_refused_before_anything_is_tried() -> None:
    with pytest.raises(UsageError, match="feature nonsense is unknown; the features are .*uffd"):
        check(("uffd", "nonsense"))


@needs_root
def test_nothing_is_left_behind() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    check()
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@needs_root
def test_without_capabilities_the_check_names_what_is_missing() -> None:
    script = f"""
import ctypes, struct, sys
sys.path.insert(0, {str(ROOT / "plugins" / "module_utils")!r})
from _engine.check import check
ctypes.CDLL(None).capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
print([feature.name for feature in check() if not feature.ok and feature.category == "required"])
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "['clone3_set_tid']\n"


@needs_root
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter of this test is for x86-64")
@pytest.mark.parametrize(
    ("number", "features"),
    [
        (323, {"uffd", "uffd_wp"}),
        (438, {"pidfd_getfd", "pidfd_store"}),
        (312, {"kcmp", "kcmp_epoll"}),
        (435, {"clone3_set_tid"}),
        (310, {"process_vm_readv", "compare"}),
        (101, {"ptrace_seize", "get_rseq_conf"}),
    ],
    ids=["userfaultfd", "pidfd_getfd", "kcmp", "clone3", "process_vm_readv", "ptrace"],
)
def test_a_kernel_without_a_system_call_is_found_out(number: int, features: set[str]) -> None:
    """A seccomp filter that answers ENOSYS makes a kernel that lacks the call."""
    script = f"""
import ctypes, struct, sys
sys.path.insert(0, {str(ROOT / "plugins" / "module_utils")!r})
from _engine.check import check
before = {{feature.name for feature in check() if not feature.ok}}
code = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7fff0000)]
filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filters)))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, program, 0, 0):
    sys.exit("no seccomp")
print(*sorted({{feature.name for feature in check() if not feature.ok}} - before))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    missing = set(shown.stdout.split()) - {"seccomp_suspend", "seccomp_filters"}  # not for a tracer that is filtered itself (ptrace(2))
    expected = features | ({"mem_dirty_track"} if "uffd_wp" in features and not check(("soft_dirty",))[0].ok else set())
    assert missing == expected


def test_the_trackers_are_none_of_them_required() -> None:
    assert {feature.category for feature in check(("uffd_wp", "soft_dirty", "compare"))} == {OPTIONAL}
