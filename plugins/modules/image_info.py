#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_info
short_description: Tell what a dump holds and whether it can be restored
version_added: 0.1.0
description:
  - Tells what a dump holds, the dumps that it builds on, what each takes on disk, and which of them can be restored.
  - What is wrong with a dump is told in RV(why_not), and is no failure. The pages themselves are not read.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._attributes.info_module
  - stillframe.checkpoint._images
seealso:
  - module: stillframe.checkpoint.restore
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Look at the newest dump
  stillframe.checkpoint.image_info:
    images_dir: /var/lib/checkpoints/redis/3
  register: dump

- name: Show which dumps of the chain can be restored
  ansible.builtin.debug:
    msg: "{{ dump.chain | selectattr('restorable') | map(attribute='path') }}"
"""

RETURN = r"""
images_dir:
  description: The directory that was looked at.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis/3
is_dump:
  description: Whether it holds a dump that was finished.
  returned: success
  type: bool
  sample: true
why_not:
  description: What is wrong with the dump or with one that it builds on, empty when nothing is.
  returned: success
  type: str
  sample: ""
made_by:
  description: V(stillframe) or V(criu), empty for what is no dump.
  returned: success
  type: str
  sample: stillframe
id:
  description: The identity of the dump, empty for one that CRIU made.
  returned: success
  type: str
  sample: 6f1c2f0e-3b1f-4b6e-9c8c-0f2f0d5c7a11
parent_id:
  description: The identity of the dump that it builds on, empty for a full dump.
  returned: success
  type: str
  sample: 0f6a9a4e-58e6-4d0e-8a57-1ce1b0a7f3a2
parent:
  description: The directory of the dump that it builds on, empty for a full dump.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis/2
kind:
  description: V(dump) or V(pre-dump), empty for what is no dump.
  returned: success
  type: str
  sample: dump
chain:
  description: The dump and all that it builds on, the newest first.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The directory of the dump.
      type: str
      sample: /var/lib/checkpoints/redis/3
    id:
      description: The identity of the dump.
      type: str
      sample: 6f1c2f0e-3b1f-4b6e-9c8c-0f2f0d5c7a11
    kind:
      description: V(dump) or V(pre-dump).
      type: str
      sample: dump
    created:
      description: When it was taken, in UTC.
      type: str
      sample: "2026-11-22T20:15:03Z"
    pages_present:
      description: Pages of memory that it holds itself.
      type: int
      sample: 3619
    pages_in_parent:
      description: Pages of memory that are in the dumps that it builds on.
      type: int
      sample: 78301
    pages_written:
      description: Pages of private memory that were written when it was taken, none where the dump does not tell.
      type: int
      sample: 3619
    frozen_time:
      description: Microseconds that the tree stood still for it, none where the dump does not tell.
      type: int
      sample: 24100
    bytes_apparent:
      description: The sizes of its files.
      type: int
      sample: 14995456
    bytes_on_disk:
      description: Bytes that its files take on disk, less than their sizes after a dedup.
      type: int
      sample: 14999552
    restorable:
      description: Whether it can be restored.
      type: bool
      sample: true
    why_not:
      description: Why it cannot be restored, empty when it can.
      type: str
      sample: ""
tasks:
  description: The processes in the dump. A pre-dump has none.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: The PID of the process.
      type: int
      sample: 4711
    ppid:
      description: The PID of its parent, V(0) for the root of the tree.
      type: int
      sample: 0
    comm:
      description: Its name.
      type: str
      sample: redis-server
    threads:
      description: The IDs of its threads, its own first.
      type: list
      elements: int
      sample: [4711, 4713]
files:
  description: How many open files the tree has.
  returned: success
  type: int
  sample: 9
timings:
  description: How long the dump took, in microseconds, under the names that M(stillframe.checkpoint.dump) returns them by.
  returned: success
  type: dict
  sample: {"freezing_time": 310, "frozen_time": 24100}
figures:
  description: How many pages the dump looked at and wrote, under the names that M(stillframe.checkpoint.dump) returns them by.
  returned: success
  type: dict
  sample: {"pages_scanned": 81920, "pages_written": 3619}
host:
  description: The machine that it was taken on.
  returned: success
  type: str
  sample: db1
kernel:
  description: The kernel that it was taken on.
  returned: success
  type: str
  sample: 6.12.0
tracker:
  description: What told which memory had changed.
  returned: success
  type: str
  sample: uffd_wp
tracking:
  description: What was left tracking the memory for the next dump.
  returned: success
  type: str
  sample: uffd_wp
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run


def work(module: AnsibleModule) -> Outcome:
    """Look at the dump."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.image_info import image_info

    return Outcome(False, image_info(module.params["images_dir"]))


def main() -> None:
    """Run the module."""
    run(work, dict(_argspecs.IMAGES), _deps.IMAGES)


if __name__ == "__main__":
    main()
