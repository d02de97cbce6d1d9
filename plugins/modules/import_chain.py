#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: import_chain
short_description: Make dumps anew from an archive of them
version_added: 0.2.0
description:
  - Unpacks what M(stillframe.checkpoint.export_chain) has written into a new directory, with one directory in it for each dump.
  - That directory appears in one step, when all checksums of the archive and of the dumps were right. Until then, and if anything is
    wrong, there is nothing.
  - Whatever is in the archive, nothing is written outside of that directory, and nothing but files and the links between the dumps.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
attributes:
  check_mode:
    support: full
    details:
      - The archive is read whole, and its checksums are compared.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  archive:
    description:
      - The file to read. It tells by itself whether it is compressed or encrypted.
    type: path
    required: true
  images_root:
    description:
      - The directory to make, for root alone to read. The one above it must be there.
      - If it is there already, nothing is done, whatever is in it.
    type: path
    required: true
  identity_file:
    description:
      - A file on the host with the private key of age (C(AGE-SECRET-KEY-1...)) that the archive is encrypted for.
      - Only its owner may be able to read it.
    type: path
requirements:
  - "Linux 5.9, x86_64"
  - "Python 3.9"
  - "protobuf >= 3.20.3"
seealso:
  - module: stillframe.checkpoint.export_chain
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Make the dumps anew
  stillframe.checkpoint.import_chain:
    archive: /mnt/offsite/redis-2026-11-25.tar.zst.age
    images_root: /var/lib/checkpoints/redis-old
    identity_file: /root/backup.key
  register: imported

- name: Restore the newest of them
  stillframe.checkpoint.restore:
    images_dir: "{{ imported.dumps[0] }}"
"""

RETURN = r"""
archive:
  description: The file.
  returned: success
  type: str
  sample: /mnt/offsite/redis-2026-11-25.tar.zst.age
images_root:
  description: The directory that was made.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis-old
dumps:
  description: The directories of the dumps, newest first.
  returned: when something was unpacked, or in check mode would be
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis-old/3, /var/lib/checkpoints/redis-old/2]
bytes_written:
  description: Sizes of their files together.
  returned: when something was unpacked, or in check mode would be
  type: int
  sample: 372244480
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run

ARGUMENTS: _argspecs.ArgumentSpec = {
    "archive": {"type": "path", "required": True},
    "images_root": {"type": "path", "required": True},
    "identity_file": {"type": "path"},
}


def work(module: AnsibleModule) -> Outcome:
    """Unpack the archive, unless there is what it is to become."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.import_chain import import_chain

    params = module.params
    if os.path.isdir(params["images_root"]):
        return Outcome(False, {"archive": params["archive"], "images_root": params["images_root"]})
    return Outcome(True, import_chain(params["archive"], params["images_root"], params["identity_file"] or "", module.check_mode))


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.IMAGES)


if __name__ == "__main__":
    main()
