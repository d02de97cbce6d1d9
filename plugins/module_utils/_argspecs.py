# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments that several modules take. Kept in step with the fragments in plugins/doc_fragments. Private to this collection."""

from __future__ import annotations

from typing import Any, Dict, Tuple

ArgumentSpec = Dict[str, Dict[str, Any]]

PROCESS: ArgumentSpec = {
    "tree": {"type": "int", "aliases": ["pid"]},
    "pid_file": {"type": "path"},
    "name": {"type": "str"},
    "systemd_unit": {"type": "str"},
    "cgroup": {"type": "str"},
}
"""The ways to name a process tree: one of them is given."""

ONE_PROCESS: Tuple[str, ...] = tuple(PROCESS)

IMAGES: ArgumentSpec = {"images_dir": {"type": "path", "required": True}}

RUN: ArgumentSpec = {
    "work_dir": {"type": "path"},
    "log_file": {"type": "path"},
    "action_script": {"type": "list", "elements": "path", "default": []},
}
"""What every run of the engine on processes takes."""

DUMP: ArgumentSpec = {
    "prev_images_dir": {"type": "str"},
    "force": {"type": "bool", "default": False},
}
"""Where `dump` and `pre_dump` write to."""

TAKE: ArgumentSpec = {
    "tracker": {"type": "str", "choices": ["auto", "uffd_wp", "soft_dirty", "compare"], "default": "auto"},
    "auto_dedup": {"type": "bool", "default": False},
    "external": {"type": "list", "elements": "str", "default": []},
    "cgroup_dump_controller": {"type": "list", "elements": "str", "default": []},
    "skip_in_flight": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 10},
}
"""What `dump`, `pre_dump` and `checkpoint` share."""

WHOLE: ArgumentSpec = {
    "freeze": {"type": "str", "choices": ["auto", "live", "snapshot", "hold"], "default": "auto"},
    "ghost_limit": {"type": "str", "default": "1M"},
    "irmap_scan_path": {"type": "list", "elements": "path", "default": []},
    "link_remap": {"type": "bool", "default": False},
    "files": {"type": "list", "elements": "str", "default": ["none"]},
}
"""What `dump` and `checkpoint` share."""

KEEP: ArgumentSpec = {
    **{f"keep_{name}": {"type": "int", "default": 0} for name in ("last", "hourly", "daily", "weekly")},
    "keep_within": {"type": "str", "default": ""},
}
"""Which dumps `prune` and `checkpoint` keep."""

EXTERNAL: ArgumentSpec = {
    "shell_job": {"type": "bool", "default": False},
    "file_locks": {"type": "bool", "default": False},
    "ext_unix_sk": {"type": "bool", "default": False},
    "manage_cgroups": {"type": "str", "choices": ["auto", "none", "props", "soft", "full", "strict", "ignore"], "default": "auto"},
    "cgroup_root": {"type": "list", "elements": "str", "default": []},
    "cgroup_yard": {"type": "path", "default": ""},
    "tcp_established": {"type": "bool", "default": False},
    "tcp_close": {"type": "bool", "default": False},
}
"""What of the outside a tree may hold on to."""

TLS: ArgumentSpec = {
    "tls": {"type": "bool", "default": True},
    "tls_cert": {"type": "path"},
    "tls_key": {"type": "path", "no_log": False},
    "tls_peer_cert": {"type": "path"},
    "tls_peer_fingerprint": {"type": "str"},
    "tls_cacert": {"type": "path"},
    "tls_cacrl": {"type": "path"},
    "tls_no_cn_verify": {"type": "bool", "default": False},
}
"""How both ends of a transfer know each other."""

PAGE_SERVER: ArgumentSpec = {
    "page_server": {"type": "bool", "default": False},
    "address": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 0},
    **TLS,
}
"""Where a dump sends its pages."""

MOVE: ArgumentSpec = {
    "address": {"type": "str", "default": "127.0.0.1"},
    "log_file": {"type": "path"},
    "action_script": {"type": "list", "elements": "path", "default": []},
    "link_timeout": {"type": "float", "default": 30},
}
"""What both ends of a move take."""
