#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: export_chain
short_description: Write a dump and all that it builds on into one file
version_added: 0.2.0
description:
  - Writes a dump and the dumps that it builds on into one archive, to be kept elsewhere.
    M(stillframe.checkpoint.import_chain) makes them anew from it.
  - All of them are verified first, and nothing is written when one of them is damaged.
  - The archive appears in one step when it is whole, and takes the place of no other file. Its mode is 0600.
  - It is a tar, in which what dedup has freed takes no room, with the SHA-256 of each file in C(SHA256SUMS).
    Compressed, it is a file of zstd, and encrypted, one of age, so that C(age --decrypt -i KEY FILE | zstd -d | tar -x) unpacks it too.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  images_dir:
    description:
      - The directory of the dump. Those that it builds on go with it.
  archive:
    description:
      - The file to write.
      - If it is there already, nothing is done, whatever is in it.
    type: path
    required: true
  compress:
    description:
      - Whether the archive is compressed, by zstd. It needs the Python library C(zstandard).
    type: str
    choices: [none, zstd]
    default: none
  recipients_file:
    description:
      - A file on the host with public keys of age (C(age1...)), one a line.
      - The owner of each of them can decrypt the archive, and nobody else.
      - It needs the Python library pyrage.
    type: path
seealso:
  - module: stillframe.checkpoint.import_chain
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Keep the chain of the newest dump elsewhere, for nobody but the owner of the key to read
  stillframe.checkpoint.export_chain:
    images_dir: /var/lib/checkpoints/redis/3
    archive: /mnt/offsite/redis-2026-11-25.tar.zst.age
    compress: zstd
    recipients_file: /etc/stillframe/backup.pub
"""

RETURN = r"""
images_dir:
  description: The directory of the dump.
  returned: when something was written, or in check mode would be
  type: str
  sample: /var/lib/checkpoints/redis/3
archive:
  description: The file.
  returned: success
  type: str
  sample: /mnt/offsite/redis-2026-11-25.tar.zst.age
dumps:
  description: The directories of the dumps in it, newest first.
  returned: when something was written, or in check mode would be
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis/3, /var/lib/checkpoints/redis/2]
bytes_read:
  description: Bytes of data that the dumps have.
  returned: when something was written, or in check mode would be
  type: int
  sample: 372244480
bytes_written:
  description: The size of the archive, V(0) in check mode.
  returned: when something was written, or in check mode would be
  type: int
  sample: 92244480
compressed:
  description: Whether it is compressed.
  returned: when something was written, or in check mode would be
  type: bool
  sample: true
encrypted:
  description: Whether it is encrypted.
  returned: when something was written, or in check mode would be
  type: bool
  sample: true
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.IMAGES,
    "archive": {"type": "path", "required": True},
    "compress": {"type": "str", "choices": ["none", "zstd"], "default": "none"},
    "recipients_file": {"type": "path"},
}


def work(module: AnsibleModule) -> Outcome:
    """Write the archive, unless it is there."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.export_chain import export_chain

    params = module.params
    if os.path.isfile(params["archive"]):
        return Outcome(False, {"archive": params["archive"]})
    compress, recipients = params["compress"] == "zstd", params["recipients_file"] or ""
    return Outcome(True, export_chain(params["images_dir"], params["archive"], compress, recipients, module.check_mode))


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.IMAGES)


if __name__ == "__main__":
    main()
