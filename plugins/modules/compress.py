#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: compress
short_description: Let a dump that is hardly ever needed take less room
version_added: 0.2.0
description:
  - Compresses the memory in a dump by zstd where it lies, or makes it ready again.
  - A dump that is compressed, and those that build on it, cannot be restored, deduplicated or merged until it is ready again, and say so.
    M(stillframe.checkpoint.verify) verifies it as it is, and M(stillframe.checkpoint.prune) removes it like any other.
  - Each file is replaced only when the other form of it is whole, verified and on disk.
    Killed at any moment, the next run ends what was begun.
  - The Python library C(zstandard) is needed. CRIU does not read what is compressed.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
attributes:
  check_mode:
    support: full
    details:
      - What would be read is verified.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  images_dir:
    description:
      - The directory of the dump. Those that it builds on are left as they are.
  state:
    description:
      - What the dump is to be.
    type: str
    choices: [compressed, ready]
    default: compressed
seealso:
  - module: stillframe.checkpoint.export_chain
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Let an old dump take less room
  stillframe.checkpoint.compress:
    images_dir: /var/lib/checkpoints/redis/1

- name: Make it ready again
  stillframe.checkpoint.compress:
    images_dir: /var/lib/checkpoints/redis/1
    state: ready
"""

RETURN = r"""
images_dir:
  description: The directory of the dump.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis/1
files:
  description: The files of memory that have changed their form, or in check mode would.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis/1/pages-1.img]
bytes_before:
  description: Bytes that the dump took on disk before.
  returned: success
  type: int
  sample: 372244480
bytes_after:
  description: Bytes that it takes on disk now; in check mode the same.
  returned: success
  type: int
  sample: 92244480
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.IMAGES,
    "state": {"type": "str", "choices": ["compressed", "ready"], "default": "compressed"},
}


def work(module: AnsibleModule) -> Outcome:
    """Compress the dump, or make it ready."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.cold import compress, decompress

    verb = compress if module.params["state"] == "compressed" else decompress
    result = verb(module.params["images_dir"], module.check_mode)
    return Outcome(bool(result.files), result)


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.IMAGES)


if __name__ == "__main__":
    main()
