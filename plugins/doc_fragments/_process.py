# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that name a process tree. Private to this collection; kept in step with module_utils/_argspecs.py."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that name a process tree, of which exactly one is given."""

    DOCUMENTATION = r"""
options:
  tree:
    description:
      - PID of the process at the root of the tree.
      - Exactly one of O(tree), O(pid_file), O(name), O(systemd_unit), and O(cgroup) is required.
    type: int
    aliases: [pid]
  pid_file:
    description:
      - A file that holds the PID of the process at the root of the tree.
    type: path
  name:
    description:
      - The name of the process at the root of the tree, as in C(/proc/PID/comm) or as the file name of its program.
      - Where several processes have it, one of them must be the ancestor of all the others.
    type: str
  systemd_unit:
    description:
      - The systemd unit whose main process is the root of the tree. Without a suffix, C(.service) is meant.
    type: str
  cgroup:
    description:
      - The control group that holds the tree, relative to where a hierarchy is mounted or as the path of its directory.
      - One of the processes in it and below it must be the ancestor of all the others.
    type: str
"""
