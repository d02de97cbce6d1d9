# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of both ends of a move. Private to this collection; kept in step with module_utils/_argspecs.py."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that both ends of a move take."""

    DOCUMENTATION = r"""
options:
  address:
    description:
      - The address that the destination listens on.
    type: str
    default: 127.0.0.1
  log_file:
    description:
      - A file that the engine's log is written to. Without it there is no log.
    type: path
  action_script:
    description:
      - Programs to run on the host at each stage of the work, the last one first. The stage is in the environment variable
        E(CRTOOLS_SCRIPT_ACTION), the PID of the root of the tree in E(CRTOOLS_INIT_PID).
      - The stages of the source are V(pre-freeze) and V(post-freeze), those of the destination V(pre-restore), V(post-restore),
        V(pre-resume) and V(post-resume). A program that fails ends the move, up to the moment when the tree goes on at the destination.
    type: list
    elements: path
    default: []
  link_timeout:
    description:
      - Seconds until the other end counts as lost when it says nothing.
    type: float
    default: 30
requirements:
  - "Linux 5.9, x86_64"
  - "Python 3.9"
  - "protobuf >= 3.20.3"
  - "python-ptrace >= 0.9.9"
"""
