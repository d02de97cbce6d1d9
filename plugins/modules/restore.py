#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore
short_description: Restore a process tree from image files
version_added: 0.1.0
description:
  - Makes the process tree again that a dump holds, from any dump of a chain, and lets it go on from where it was dumped.
  - The processes get the PIDs that they had. They belong to no module or session any more and run on when the module has ended.
  - What the machine lacks for it is told at once, all of it, before any process is made. Where it fails later, no process is left.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
  - stillframe.checkpoint._images.run
  - stillframe.checkpoint._images.external
attributes:
  check_mode:
    support: full
    details:
      - Tells whether the tree can be restored, and fails as the restore itself would where it can't.
  diff_mode:
    support: full
  idempotent:
    support: none
    details:
      - A restore while the tree runs fails, since its PIDs are in use.
options:
  leave_stopped:
    description:
      - Leave the tree stopped, to go on when it gets the signal SIGCONT.
    type: bool
    default: false
  track_mem:
    description:
      - Track the memory that the tree changes from now on, so that its next dump can build on these images.
    type: bool
    default: false
  auto_dedup:
    description:
      - Free the data in the images, and in the dumps that they build on, while it is read. They cannot be restored again.
      - What was freed is put back when the restore fails. It is lost when the restore is killed.
      - Cannot be used with O(track_mem).
    type: bool
    default: false
  restore_files:
    description:
      - Put the files that the dump keeps (see O(stillframe.checkpoint.dump#module:files)) back as they were at the dump, before the tree is
        restored. Files that have been removed since are made again, those that were changed since lose these changes.
      - A file that any process has open for writing is not touched, and the module fails.
      - When the restore fails, or is killed, the files are as they were before it.
      - Without it, files that have other sizes than at the dump are in the way, as if the dump kept none; the module warns of all that
        have changed.
    type: bool
    default: false
    version_added: 0.2.0
  file_validation:
    description:
      - How the files that the tree has open are told to be the same.
      - V(filesize) compares their sizes, V(buildid) the build IDs of programs and libraries too.
    type: str
    choices: [filesize, buildid]
    default: buildid
seealso:
  - module: stillframe.checkpoint.dump
  - module: stillframe.checkpoint.image_info
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Restore a service as it was at the second dump
  stillframe.checkpoint.restore:
    images_dir: /var/lib/checkpoints/redis/2

- name: Restore it with its files as they were then
  stillframe.checkpoint.restore:
    images_dir: /var/lib/checkpoints/redis/2
    restore_files: true

- name: Restore it, and have the next dump build on the images
  stillframe.checkpoint.restore:
    images_dir: /var/lib/checkpoints/redis/2
    track_mem: true
"""

RETURN = r"""
images_dir:
  description: The directory that the images are in.
  returned: success, outside check mode
  type: str
  sample: /var/lib/checkpoints/redis/2
dump_id:
  description: The identity of the dump, empty for one that CRIU made.
  returned: success
  type: str
  sample: 6f1c2f0e-3b1f-4b6e-9c8c-0f2f0d5c7a11
pid:
  description: The process at the root of the tree.
  returned: success
  type: int
  sample: 4711
pids:
  description: The processes of the tree, its root first.
  returned: success
  type: list
  elements: int
  sample: [4711, 4712]
pages_compared:
  description: Pages that a process has from its parent and that were compared with the images.
  returned: success, outside check mode
  type: int
  sample: 0
pages_skipped_cow:
  description: Pages that a process goes on sharing with its parent.
  returned: success, outside check mode
  type: int
  sample: 0
pages_restored:
  description: Pages that were filled from the images.
  returned: success, outside check mode
  type: int
  sample: 81920
bytes_deduplicated:
  description: Bytes on disk that O(auto_dedup) freed in the images.
  returned: success, outside check mode
  type: int
  sample: 0
files_restored:
  description: Files that O(restore_files) put back.
  returned: success, outside check mode
  type: int
  sample: 0
forking_time:
  description: Microseconds spent on making the processes.
  returned: success, outside check mode
  type: int
  sample: 900
restore_time:
  description: Microseconds from the first process until the tree went on.
  returned: success, outside check mode
  type: int
  sample: 140000
wall_time:
  description: Microseconds from beginning to end.
  returned: success, outside check mode
  type: int
  sample: 180000
left:
  description: How the tree was left, V(running) or V(stopped).
  returned: success, outside check mode
  type: str
  sample: running
restorable:
  description: Whether the tree can be restored. The module fails where it can't.
  returned: success, in check mode
  type: bool
  sample: true
obstacles:
  description: Each thing that stands in the way, where the tree cannot be restored. Nothing was touched then.
  returned: when something stands in the way
  type: list
  elements: dict
  contains:
    pid:
      description: The process that it is about, V(0) for none.
      type: int
      sample: 4711
    where:
      description: The PID, file or image.
      type: str
      sample: file /usr/bin/redis-server
    why:
      description: Why it stands in the way.
      type: str
      sample: its build ID is not that of the dump
    remedy:
      description: What to do about it.
      type: str
      sample: install the version that was running
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.errors import RestoreError
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.options import RestoreOptions
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, engine_options, open_module_log, run

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.IMAGES,
    **_argspecs.RUN,
    **_argspecs.EXTERNAL,
    "leave_stopped": {"type": "bool", "default": False},
    "track_mem": {"type": "bool", "default": False},
    "auto_dedup": {"type": "bool", "default": False},
    "restore_files": {"type": "bool", "default": False},
    "file_validation": {"type": "str", "choices": ["filesize", "buildid"], "default": "buildid"},
}


def work(module: AnsibleModule) -> Outcome:
    """Restore the tree."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.restore import plan, restore

    params = module.params
    log = open_module_log(params)
    options = engine_options(RestoreOptions, params, log)
    if module.check_mode:
        result = plan(options)
        if not result.restorable:
            raise RestoreError("; ".join(map(str, result.obstacles)), result.obstacles)
    else:
        result = restore(options, log.logger)
    state = "stopped" if params["leave_stopped"] else "running"
    return Outcome(True, result, {"processes": "none"}, {"processes": f"{', '.join(map(str, result.pids))} {state}"})


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING, mutually_exclusive=[("auto_dedup", "track_mem")])


if __name__ == "__main__":
    main()
