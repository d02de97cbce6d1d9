#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: squash
short_description: Merge a dump and the dumps that it builds on into one
version_added: 0.2.0
description:
  - Makes a dump hold all its memory itself, and removes the dumps that it was built on. It restores to the very same memory.
  - Dumps that build on it go on to do so, and a process whose memory is tracked since that dump can be dumped incrementally on top of it.
  - The new dump takes the place of the old one in one step. Killed at any moment, all that could be restored before can be,
    and the next run ends what was begun.
  - Until that step the older dumps are needed, so that space is freed only after it. On file systems that can (btrfs, xfs),
    pages are shared meanwhile instead of copied.
  - Dumps that O(images_dir) does not lie beside, that other dumps beside it build on, or that have a file V(pinned) in their directory are
    kept, and those that they build on.
  - A dump that has lost data to M(stillframe.checkpoint.dedup) cannot be made whole, and is refused.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  images_dir:
    description:
      - The directory of the dump. It need not be the newest of its chain.
  keep_parents:
    description:
      - Remove none of the dumps that it was built on.
    type: bool
    default: false
seealso:
  - module: stillframe.checkpoint.dedup
  - module: stillframe.checkpoint.verify
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Merge the oldest dumps of a chain, 1 to 3, into 3
  stillframe.checkpoint.squash:
    images_dir: /var/lib/checkpoints/redis/3
"""

RETURN = r"""
images_dir:
  description: The directory of the dump.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis/3
squashed:
  description: Whether it built on others, and so was made anew, or in check mode would be.
  returned: success
  type: bool
  sample: true
pages_merged:
  description: Pages that the dump holds itself now, and did not before; or in check mode would.
  returned: success
  type: int
  sample: 81920
removed:
  description: The directories of the dumps that were removed, newest first.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis/2, /var/lib/checkpoints/redis/1]
bytes_freed:
  description: Bytes given back to the file system, in check mode an estimate. Below zero when more are taken than before.
  returned: success
  type: int
  sample: 29491200
bytes_before:
  description: Bytes that the dump, and those that are removed, took on disk before.
  returned: success
  type: int
  sample: 372244480
bytes_after:
  description: Bytes that the dump takes on disk now.
  returned: success
  type: int
  sample: 342753280
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run


def work(module: AnsibleModule) -> Outcome:
    """Let a dump hold all its pages itself."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.squash import squash

    result = squash(module.params["images_dir"], module.params["keep_parents"], check=module.check_mode)
    before = {"bytes_on_disk": result.bytes_before, "dumps": [result.images_dir, *result.removed]}
    after = {"bytes_on_disk": result.bytes_after, "dumps": [result.images_dir]}
    return Outcome(result.squashed, result, before, after)


def main() -> None:
    """Run the module."""
    run(work, {**_argspecs.IMAGES, "keep_parents": {"type": "bool", "default": False}}, _deps.IMAGES)


if __name__ == "__main__":
    main()
