#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dump
short_description: Dump a running process tree into image files
version_added: 0.1.0
description:
  - Stops a process tree, writes all that it consists of into image files, and ends it, leaves it stopped or lets it go on.
  - A dump can build on the one before it. It then holds only the memory that changed since.
    The tree can be restored from any dump of such a chain.
  - The images have the format of CRIU 4. No CRIU is needed.
  - What a tree holds and a dump cannot carry is refused before anything is touched, each such thing with its remedy.
  - The files that the tree has open are not part of a dump, unless O(files) says so.
    Those that are not must be there, as they were, when the tree is restored.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._process
  - stillframe.checkpoint._images
  - stillframe.checkpoint._images.run
  - stillframe.checkpoint._images.dump
  - stillframe.checkpoint._images.take
  - stillframe.checkpoint._images.whole
  - stillframe.checkpoint._page_server
  - stillframe.checkpoint._page_server.tls
  - stillframe.checkpoint._images.external
attributes:
  check_mode:
    support: full
    details:
      - Tells whether the tree can be dumped, and fails as the dump itself would where it can't. The tree is not stopped.
      - A dump that O(prev_images_dir) names must be there in check mode too.
  diff_mode:
    support: full
  idempotent:
    support: none
    details:
      - Every dump is a new one. A second dump into the same O(images_dir) fails unless O(force=true).
options:
  leave_running:
    description:
      - Let the tree go on after the dump. Without this and O(leave_stopped), it is killed.
    type: bool
    default: false
  leave_stopped:
    description:
      - Leave the tree stopped after the dump.
    type: bool
    default: false
  track_mem:
    description:
      - Track the memory that the tree changes from now on, so that the next dump can build on this one.
    type: bool
    default: false
seealso:
  - module: stillframe.checkpoint.restore
  - module: stillframe.checkpoint.pre_dump
  - module: stillframe.checkpoint.dedup
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Create the first dump
  stillframe.checkpoint.dump:
    tree: 4711
    images_dir: /var/lib/checkpoints/redis/1
    leave_running: true
    track_mem: true

- name: Create the second dump, which holds what has changed since
  stillframe.checkpoint.dump:
    systemd_unit: redis-server
    images_dir: /var/lib/checkpoints/redis/2
    prev_images_dir: ../1/
    leave_running: true
    track_mem: true

- name: Create a dump that keeps the files too
  stillframe.checkpoint.dump:
    name: app
    images_dir: /var/lib/checkpoints/app/1
    files: [open, /var/lib/app/*.db]

- name: Create the last dump, which ends the processes
  stillframe.checkpoint.dump:
    pid_file: /run/redis/redis-server.pid
    images_dir: /var/lib/checkpoints/redis/3
    prev_images_dir: ../2/
"""

RETURN = r"""
images_dir:
  description: The directory that the images are in.
  returned: success, outside check mode
  type: str
  sample: /var/lib/checkpoints/redis/2
dump_id:
  description: The identity of this dump. A later dump names it as its parent.
  returned: success, outside check mode
  type: str
  sample: 6f1c2f0e-3b1f-4b6e-9c8c-0f2f0d5c7a11
parent_id:
  description: The identity of the dump that this one builds on, empty for a full dump.
  returned: success, outside check mode
  type: str
  sample: 0f6a9a4e-58e6-4d0e-8a57-1ce1b0a7f3a2
pids:
  description: The processes of the tree, its root first.
  returned: success
  type: list
  elements: int
  sample: [4711, 4712]
tracker:
  description: What told which memory had changed, V(none) for a full dump.
  returned: success
  type: str
  sample: uffd_wp
tracking:
  description: What is left tracking the memory for the next dump, or V(none).
  returned: success, outside check mode
  type: str
  sample: uffd_wp
freeze:
  description: How the memory was held still while it was written, V(none) where it was not.
  returned: success, outside check mode
  type: str
  sample: snapshot
pages_scanned:
  description: Pages of private memory that were looked at.
  returned: success, outside check mode
  type: int
  sample: 81920
pages_skipped_parent:
  description: Pages of private memory that a dump before this one holds.
  returned: success, outside check mode
  type: int
  sample: 78301
pages_written:
  description: Pages of private memory that were written.
  returned: success, outside check mode
  type: int
  sample: 3619
shpages_scanned:
  description: Pages of shared memory that were looked at.
  returned: success, outside check mode
  type: int
  sample: 16
shpages_skipped_parent:
  description: Pages of shared memory that a dump before this one holds.
  returned: success, outside check mode
  type: int
  sample: 0
shpages_written:
  description: Pages of shared memory that were written.
  returned: success, outside check mode
  type: int
  sample: 16
bytes_written:
  description: Bytes on disk of all the images of this dump.
  returned: success, outside check mode
  type: int
  sample: 14995456
bytes_deduplicated:
  description: Bytes on disk that O(auto_dedup) freed in the dumps before this one.
  returned: success, outside check mode
  type: int
  sample: 0
freezing_time:
  description: Microseconds until the whole tree stood still.
  returned: success, outside check mode
  type: int
  sample: 310
frozen_time:
  description: Microseconds that the tree stood still.
  returned: success, outside check mode
  type: int
  sample: 24100
memdump_time:
  description: Microseconds spent on collecting memory.
  returned: success, outside check mode
  type: int
  sample: 9800
memwrite_time:
  description: Microseconds spent on writing memory.
  returned: success, outside check mode
  type: int
  sample: 61000
wall_time:
  description: Microseconds from beginning to end.
  returned: success, outside check mode
  type: int
  sample: 150000
files_kept:
  description: Files that are kept with the dump.
  returned: success, outside check mode
  type: int
  sample: 3
files_copied:
  description: Bytes of them that had to be copied while the tree stood still.
  returned: success, outside check mode
  type: int
  sample: 81920
files_time:
  description: Microseconds that the tree stood still for them.
  returned: success, outside check mode
  type: int
  sample: 2100
left:
  description: How the tree was left, V(running), V(stopped) or V(killed).
  returned: success, outside check mode
  type: str
  sample: running
dumpable:
  description: Whether the tree can be dumped. The module fails where it can't.
  returned: success, in check mode
  type: bool
  sample: true
incremental:
  description: Whether the dump would build on the one before.
  returned: success, in check mode
  type: bool
  sample: true
memory:
  description: Bytes of memory that the tree has, more than would be written.
  returned: success, in check mode
  type: int
  sample: 335544320
obstacles:
  description: Each thing that stands in the way, where the tree cannot be dumped. Nothing was touched then.
  returned: when something stands in the way
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
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps, _dumping
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.PROCESS,
    **_argspecs.IMAGES,
    **_argspecs.RUN,
    **_argspecs.DUMP,
    **_argspecs.TAKE,
    **_argspecs.WHOLE,
    **_argspecs.PAGE_SERVER,
    **_argspecs.EXTERNAL,
    "leave_running": {"type": "bool", "default": False},
    "leave_stopped": {"type": "bool", "default": False},
    "track_mem": {"type": "bool", "default": False},
}


def work(module: AnsibleModule) -> Outcome:
    """Dump the tree."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.dump import dump, plan

    params = module.params
    params["ghost_limit"] = _dumping.size("ghost_limit", params["ghost_limit"])
    left = "running" if params["leave_running"] else "stopped" if params["leave_stopped"] else "killed"
    return _dumping.perform(module, dump, plan, left)


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING, mutually_exclusive=[("leave_running", "leave_stopped")])


if __name__ == "__main__":
    main()
