#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: prune
short_description: Remove the dumps that no rule of retention keeps
version_added: 0.2.0
description:
  - Keeps of the dumps in a directory, each in a directory of its own, those that any of the C(keep_) options names, and removes the others.
  - A dump that is kept and was built on one that is not is made anew first, on top of the nearest one that is kept, or by itself.
    It restores to the very same memory.
  - The newest dump is always kept, and so is one that has a file V(pinned) in its directory. Pre-dumps, and dumps that have lost data
    to M(stillframe.checkpoint.dedup), are kept only as long as another one is to be made on top of them.
  - Dumps in other directories that build on these are not known, and not taken care of.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
  - stillframe.checkpoint._images.keep
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - As time goes by, O(keep_within) keeps less.
options:
  images_dir:
    description:
      - The directory that holds the directories of the dumps. Their names do not matter, only the times of the dumps do.
seealso:
  - module: stillframe.checkpoint.squash
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Keep the last 5 dumps, one a day for a week, and one a week for a month
  stillframe.checkpoint.prune:
    images_dir: /var/lib/checkpoints/redis
    keep_last: 5
    keep_daily: 7
    keep_weekly: 4
"""

RETURN = r"""
images_dir:
  description: The directory of the dumps.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis
kept:
  description: The dumps that are kept, each after the one that it builds on.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /var/lib/checkpoints/redis/3
      created: "2026-11-24T02:00:03+00:00"
      reasons: [last, daily]
      onto: null
      squashed: true
  contains:
    path:
      description: Its directory.
      type: str
    created:
      description: When it was made, UTC.
      type: str
    reasons:
      description: Why it is kept (V(last), V(hourly), V(daily), V(weekly), V(within), V(newest), V(pinned)).
      type: list
      elements: str
    onto:
      description: The dump that it builds on afterwards, none for one that holds all its memory itself.
      type: str
    squashed:
      description: Whether it was made anew, or in check mode would be, because the dump that it built on goes.
      type: bool
removed:
  description: The directories that were removed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis/2, /var/lib/checkpoints/redis/1]
bytes_freed:
  description: Bytes given back to the file system, less those that dumps made anew take; in check mode an estimate.
  returned: success
  type: int
  sample: 29491200
bytes_before:
  description: Bytes that all the dumps took on disk before.
  returned: success
  type: int
  sample: 372244480
bytes_after:
  description: Bytes that those which are kept take now.
  returned: success
  type: int
  sample: 342753280
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, retention_rule, run


def work(module: AnsibleModule) -> Outcome:
    """Keep what the rule names."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.prune import prune

    result = prune(module.params["images_dir"], retention_rule(module.params), check=module.check_mode)
    left = [kept.path for kept in result.kept]
    before = {"bytes_on_disk": result.bytes_before, "dumps": sorted([*left, *result.removed])}
    after = {"bytes_on_disk": result.bytes_after, "dumps": sorted(left)}
    return Outcome(bool(result.removed), result, before, after)


def main() -> None:
    """Run the module."""
    run(work, {**_argspecs.IMAGES, **_argspecs.KEEP}, _deps.IMAGES)


if __name__ == "__main__":
    main()
