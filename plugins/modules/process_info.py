#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: process_info
short_description: Tell what a process tree consists of
version_added: 0.1.0
description:
  - Tells the processes of a tree, the memory that they have, the addresses that they listen on, and what stands in the way of a dump.
  - Reads C(/proc) only. Nothing is stopped.
options:
  carry_files:
    description:
      - Files that are to move along, as O(stillframe.checkpoint.migrate#module:carry_files) takes them. RV(needs) then has them among
        what is to come, and not among what is to be there.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._attributes.info_module
  - stillframe.checkpoint._process
requirements:
  - Linux 5.9
  - Python 3.9
  - protobuf >= 3.20.3
  - python-ptrace >= 0.9.9
seealso:
  - module: stillframe.checkpoint.dump
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Look at a service
  stillframe.checkpoint.process_info:
    systemd_unit: redis-server
  register: redis

- name: Dump it where nothing stands in the way
  stillframe.checkpoint.dump:
    tree: "{{ redis.pid }}"
    images_dir: /var/lib/checkpoints/redis/1
  when: redis.dumpable
"""

RETURN = r"""
pid:
  description: The process at the root of the tree.
  returned: success
  type: int
  sample: 4711
tasks:
  description: The processes, parents before children.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: The PID of the process.
      type: int
      sample: 4711
    ppid:
      description: The PID of its parent.
      type: int
      sample: 1
    comm:
      description: Its name.
      type: str
      sample: redis-server
    cmdline:
      description: Its arguments, the program first.
      type: list
      elements: str
      sample: ["/usr/bin/redis-server 127.0.0.1:6379"]
    state:
      description: The letter of its state, as in C(/proc/PID/stat).
      type: str
      sample: S
    threads:
      description: How many threads it has.
      type: int
      sample: 5
    uid:
      description: Its effective user.
      type: int
      sample: 112
    rss:
      description: Bytes that it has in memory.
      type: int
      sample: 335544320
    swap:
      description: Bytes that are swapped out.
      type: int
      sample: 0
    start_time:
      description: When it was started, in seconds since 1970.
      type: float
      sample: 1790000000.25
    descriptors:
      description: How many descriptors of each kind are open.
      type: dict
      sample: {"device": 3, "socket": 2, "eventpoll": 1}
listening:
  description: The addresses that the tree listens on.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: The process that has the socket.
      type: int
      sample: 4711
    protocol:
      description: V(tcp), V(tcp6) or V(unix).
      type: str
      sample: tcp
    address:
      description: An IP address, or a path. That of an abstract unix socket begins with an at sign.
      type: str
      sample: 127.0.0.1
    port:
      description: The port, V(0) for a unix socket.
      type: int
      sample: 6379
rss:
  description: Bytes that all processes have in memory. What they share is counted for each.
  returned: success
  type: int
  sample: 335544320
swap:
  description: Bytes of all processes that are swapped out.
  returned: success
  type: int
  sample: 0
dumpable:
  description: Whether the tree can be dumped as it is.
  returned: success
  type: bool
  sample: true
obstacles:
  description: Each thing that stands in the way of a dump.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: The process that holds it, V(0) where none does.
      type: int
      sample: 4711
    where:
      description: The descriptor, mapping or state.
      type: str
      sample: fd 7
    why:
      description: Why it stands in the way.
      type: str
      sample: TCP connection to 192.0.2.7 port 40112 is established
    remedy:
      description: What to do about it.
      type: str
      sample: close it or use tcp_close
needs:
  description: What a host must have for the tree to move there, as O(stillframe.checkpoint.receive#module:needs) takes it.
  returned: success
  type: dict
  contains:
    machine:
      description: The kind of machine.
      type: str
      sample: x86_64
    page_size:
      description: Bytes of a page of memory.
      type: int
      sample: 4096
    cpu:
      description: The processor features that this host has.
      type: list
      elements: str
      sample: [avx2, xsave]
    numbers:
      description: The PIDs and TIDs of the tree.
      type: list
      elements: int
      sample: [4711, 4712]
    memory:
      description: Bytes that the tree has in memory.
      type: int
      sample: 335544320
    programs:
      description: The path, size and build ID of each file that it executes from.
      type: list
      elements: list
      sample: [["/usr/bin/redis-check-rdb", 1706784, "0b5f"]]
    files:
      description: The path, size, time of change and whether it can be written to, of each other file that it has open.
      type: list
      elements: list
      sample: [["/var/log/redis/redis-server.log", 4096, 1767225600000000000, true]]
    carried:
      description: The path, size, inode, device and shared filesystem of each of O(carry_files).
      type: list
      elements: list
      sample: [["/var/lib/redis/dump.rdb", 4096, 1048601, 65025, ""]]
    ports:
      description: The protocol, address and port of everything that it listens on.
      type: list
      elements: list
      sample: [["tcp", "127.0.0.1", 6379]]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, as_dict, find_tree, run


def work(module: AnsibleModule) -> Outcome:
    """Look at the tree."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.process_info import process_info
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer import needs

    found = process_info(find_tree(module.params))
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.carried import CarriedFiles

    pids = [task.pid for task in found.tasks]
    carried, _refused = CarriedFiles(module.params["carry_files"], found.pid).look(pids)
    return Outcome(False, {**as_dict(found), "needs": needs.look(pids, carried=carried).values()})


def main() -> None:
    """Run the module."""
    run(work, {**_argspecs.PROCESS, "carry_files": {"type": "list", "elements": "str", "default": []}}, _deps.TRACING)


if __name__ == "__main__":
    main()
