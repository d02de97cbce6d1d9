#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify
short_description: Read dumps whole, and tell all that is wrong with them
version_added: 0.2.0
description:
  - Reads a dump and all the dumps that it builds on, and checks them against their checksums and against sense.
    Every image can be read, those that belong together are there, and every page is in the dump or in one that it builds on.
  - Fails when anything is wrong. RV(faults) tells all of it, each with its file and the place in it.
  - Dumps that CRIU made have no checksums, so that of their pages only the places are checked.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._attributes.info_module
  - stillframe.checkpoint._images
options:
  images_dir:
    description:
      - The directory of a dump.
      - Or a directory with a directory for each of several dumps, all of which are verified.
seealso:
  - module: stillframe.checkpoint.image_info
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Verify a dump and all that it builds on
  stillframe.checkpoint.verify:
    images_dir: /var/lib/checkpoints/redis/3

- name: Verify all dumps of a service, whatever is wrong with them
  stillframe.checkpoint.verify:
    images_dir: /var/lib/checkpoints/redis
  register: dumps
  failed_when: false

- name: Show which dumps are damaged
  ansible.builtin.debug:
    msg: "{{ dumps.dumps | rejectattr('sound') | map(attribute='path') }}"
"""

RETURN = r"""
images_dir:
  description: The directory that was looked at.
  returned: always
  type: str
  sample: /var/lib/checkpoints/redis/3
sound:
  description: Whether nothing is wrong.
  returned: always
  type: bool
  sample: true
faults:
  description: All that is wrong.
  returned: always
  type: list
  elements: dict
  sample: []
  contains:
    path:
      description: The file, or the directory of the dump where it is not one file.
      type: str
      sample: /var/lib/checkpoints/redis/1/pages-1.img
    offset:
      description: Where in the file, in bytes; none where that is not known.
      type: int
      sample: 1048576
    why:
      description: What is wrong, and what to do.
      type: str
      sample: "/var/lib/checkpoints/redis/1/pages-1.img is truncated at offset 1048576; use another copy of the dump"
dumps:
  description: The dumps that were read, each before those that it builds on.
  returned: always
  type: list
  elements: dict
  sample:
    - path: /var/lib/checkpoints/redis/3
      id: 0f8fad5b-d9cb-469f-a165-70867728950e
      sound: true
      checksums: true
  contains:
    path:
      description: Its directory.
      type: str
    id:
      description: Its identity, empty for one that CRIU made.
      type: str
    sound:
      description: Whether nothing is wrong with it by itself.
      type: bool
    checksums:
      description: Whether it has checksums.
      type: bool
bytes_read:
  description: Bytes of the pages that were read.
  returned: always
  type: int
  sample: 372244480
wall_time:
  description: Microseconds that it took.
  returned: always
  type: int
  sample: 91000
"""

import logging

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run
from ansible_collections.stillframe.checkpoint.plugins.module_utils._progress import open_progress


def work(module: AnsibleModule) -> Outcome:
    """Verify what is in a directory."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.verify import verify

    result = verify(module.params["images_dir"], open_progress(logging.getLogger(__name__)))
    faults = [fault.why for fault in result.faults]
    more = f"; and {len(faults) - 1} more faults" if len(faults) > 1 else ""
    return Outcome(False, result, failure=f"{faults[0]}{more}" if faults else "")


def main() -> None:
    """Run the module."""
    run(work, dict(_argspecs.IMAGES), _deps.IMAGES)


if __name__ == "__main__":
    main()
