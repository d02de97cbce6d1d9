#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dedup
short_description: Free what a chain of dumps holds twice
version_added: 0.1.0
description:
  - Frees the data in the parents of a dump that the dump itself, or a parent nearer to it, holds again.
  - The dump can be restored as before. The parents that lost data can no longer be restored by themselves. This cannot be undone.
  - With O(keep_restorable=true), only what no dump of the chain needs is freed, and all of them can be restored as before.
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
      - The directory of the newest dump of the chain.
  keep_restorable:
    description:
      - Free only pages of zeros, and pages that are the same in the dump before, in this dump and in all those that it builds on.
      - A dump with such pages is made anew without them where they are at least a sixteenth of it, for which it is copied once.
      - Other equal pages come to lie in one place, on file systems that can (btrfs, xfs). Nothing is copied or changed for that.
    type: bool
    default: false
    version_added: 0.2.0
seealso:
  - module: stillframe.checkpoint.image_info
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Keep only the last dump restorable, and free what the others hold twice
  stillframe.checkpoint.dedup:
    images_dir: /var/lib/checkpoints/redis/3

- name: Free what is there for nothing, and keep every dump restorable
  stillframe.checkpoint.dedup:
    images_dir: /var/lib/checkpoints/redis/3
    keep_restorable: true
"""

RETURN = r"""
images_dir:
  description: The directory of the newest dump.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis/3
pages_punched:
  description: Pages that were freed, or in check mode would be.
  returned: success
  type: int
  sample: 7200
bytes_freed:
  description: Bytes given back to the file system, or in check mode those that would be.
  returned: success
  type: int
  sample: 29491200
bytes_before:
  description: Bytes that the pages of the chain took on disk before.
  returned: success
  type: int
  sample: 372244480
bytes_after:
  description: Bytes that the pages of the chain take on disk now, or in check mode would take.
  returned: success
  type: int
  sample: 342753280
bytes_shared:
  description:
    - Bytes of equal pages that lie in one place now, and did not before, or in check mode those that would.
    - What a file takes on disk, as C(du) tells it, is the same before and after.
  returned: success
  type: int
  sample: 4096000
punched:
  description: The directories of the dumps that lost data, and that cannot be restored by themselves any more.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis/2, /var/lib/checkpoints/redis/1]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run


def work(module: AnsibleModule) -> Outcome:
    """Free what the chain holds twice."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.dedup import dedup

    result = dedup(module.params["images_dir"], check=module.check_mode, keep_restorable=module.params["keep_restorable"])
    before, after = {"bytes_on_disk": result.bytes_before}, {"bytes_on_disk": result.bytes_after}
    changed = bool(result.pages_punched or result.bytes_freed or result.bytes_shared)
    return Outcome(changed, result, before, {**after, "punched": list(result.punched)})


def main() -> None:
    """Run the module."""
    run(work, {**_argspecs.IMAGES, "keep_restorable": {"type": "bool", "default": False}}, _deps.IMAGES)


if __name__ == "__main__":
    main()
