#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: check
short_description: Tell whether a machine has what dumps and restores need
version_added: 0.1.0
description:
  - Tries out the features of the kernel that dumps and restores use, and the permissions for them.
  - Fails when one that is required, or one that O(feature) names, is not there.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._attributes.info_module
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
  idempotent:
    support: full
options:
  feature:
    description:
      - The features to look at, by the names that CRIU has for them, such as V(mem_dirty_track), V(pagemap_scan) or V(uffd).
      - Without any, all features are looked at, and only those in the category V(required) can make the module fail.
    type: list
    elements: str
    default: []
    aliases: [features]
requirements:
  - Linux 5.9
  - Python 3.9
  - protobuf >= 3.20.3
  - python-ptrace >= 0.9.9
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Make sure that the machine can dump and restore
  stillframe.checkpoint.check:

- name: Make sure that memory can be tracked
  stillframe.checkpoint.check:
    feature: mem_dirty_track
"""

RETURN = r"""
features:
  description: Every feature that was looked at.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name of the feature.
      type: str
      sample: pagemap_scan
    ok:
      description: Whether it is there.
      type: bool
      sample: true
    detail:
      description: What it is for, or why it is not there.
      type: str
      sample: finds filled pages in runs
    category:
      description:
        - How much depends on it.
        - V(required) is what every dump and restore needs, V(extra) what some need.
        - V(optional) is one of several ways to the same end, V(unused) a feature of CRIU that is not needed yet.
      type: str
      sample: extra
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, as_dict, run


def work(module: AnsibleModule) -> Outcome:
    """Look at the features."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.check import check

    named = module.params["feature"]
    features = check(named)
    answer = [as_dict(feature) for feature in features]
    lacking = [feature for feature in features if not feature.ok and (named or feature.category == "required")]
    if lacking:
        module.fail_json(msg="; ".join(f"{feature.name} is not supported: {feature.detail}" for feature in lacking), features=answer)
    return Outcome(False, {"features": answer})


def main() -> None:
    """Run the module."""
    run(work, {"feature": {"type": "list", "elements": "str", "default": [], "aliases": ["features"]}}, _deps.TRACING)


if __name__ == "__main__":
    main()
