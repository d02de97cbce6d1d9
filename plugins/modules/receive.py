#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: receive
short_description: Take a process tree that moves here from another host
version_added: 0.1.0
description:
  - Waits for M(stillframe.checkpoint.migrate) of another host, and takes the tree that it sends, straight into the memory that the
    tree is to have here. Nothing is written to a disk.
  - It runs on exactly one of the two hosts. Where the move fails, no process of it is left here.
  - Lasts until the tree has come. Run it in the background with C(async), and the move meanwhile.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._move
  - stillframe.checkpoint._images.external
  - stillframe.checkpoint._page_server.tls
attributes:
  check_mode:
    support: full
    details:
      - Waits for nobody.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Every run takes another tree.
options:
  track_mem:
    description:
      - Track the memory that the tree changes from its arrival on.
    type: bool
    default: false
  file_validation:
    description:
      - How the files that the tree has open are told to be the same.
      - V(filesize) compares their sizes, V(buildid) the build IDs of programs and libraries too.
    type: str
    choices: [filesize, buildid]
    default: buildid
  decision_timeout:
    description:
      - Seconds that a tree which is ready waits for a source that was lost before it decided. It goes on there then.
    type: float
    default: 30
seealso:
  - module: stillframe.checkpoint.migrate
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Wait for the tree in the background
  stillframe.checkpoint.receive:
    address: 192.0.2.2
    port: 7000
    tls_cert: /etc/stillframe/cert.pem
    tls_key: /etc/stillframe/key.pem
    tls_peer_cert: /etc/stillframe/source.pem
  async: 3600
  poll: 0
"""

RETURN = r"""
session:
  description: The identity of the move, a UUID.
  returned: when a tree has come
  type: str
  sample: 5210e903-2fce-4232-98cb-6cb5ea488568
pid:
  description: The process at the root of the tree.
  returned: when a tree has come
  type: int
  sample: 4711
pids:
  description: The processes of the tree, its root first.
  returned: when a tree has come
  type: list
  elements: int
  sample: [4711, 4712]
rounds:
  description: The rounds that came while the tree ran at its source.
  returned: when a tree has come
  type: int
  sample: 4
bytes:
  description: Bytes of memory that came in the rounds.
  returned: when a tree has come
  type: int
  sample: 1073741824
pages_restored:
  description: Pages that came while the tree stood still.
  returned: when a tree has come
  type: int
  sample: 448
restore_time:
  description: Microseconds that completing the tree took.
  returned: when a tree has come
  type: int
  sample: 40000
wall_time:
  description: Microseconds from beginning to end.
  returned: when a tree has come
  type: int
  sample: 4800000
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.options import ReceiveTreeOptions
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import (
    Outcome,
    engine_options,
    open_module_log,
    run,
    tls_options,
)

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.MOVE,
    **_argspecs.EXTERNAL,
    **_argspecs.TLS,
    "track_mem": {"type": "bool", "default": False},
    "file_validation": {"type": "str", "choices": ["filesize", "buildid"], "default": "buildid"},
    "decision_timeout": {"type": "float", "default": 30},
}


def work(module: AnsibleModule) -> Outcome:
    """Wait for a tree and take it."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.receive import receive
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.ends import acceptor
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.visitors import listen

    params = {**module.params, "images_dir": "/", "work_dir": "/"}
    log, tls = open_module_log(params), tls_options(params)
    options = engine_options(ReceiveTreeOptions, params, log)
    if module.check_mode:
        return Outcome(True, {})
    with listen(params["address"], params["port"]) as listener:
        result = receive(options, acceptor(listener, tls, log.logger), log.logger)
    return Outcome(result is not None, result or {})


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING)


if __name__ == "__main__":
    main()
