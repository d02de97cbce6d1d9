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
      - Waits for nobody, and tells whether the address and the port are free, and with O(needs) what else stands in the way.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Every run takes another tree.
options:
  port:
    description:
      - The port to listen on.
    type: int
    required: true
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
  ready_file:
    description:
      - A file that says as JSON, as long as a tree can come, the C(address), the C(port) and the C(pid) of who waits for it there.
    type: path
  needs:
    description:
      - What the tree is to find here, from M(stillframe.checkpoint.process_info). Looked at in check mode alone. What it is not
        to find is told at once then; without check mode the source tells it itself.
    type: dict
  accept_files:
    description:
      - Files that the source may send along with the tree (its O(stillframe.checkpoint.migrate#module:carry_files)), and directories
        below which it may send any. Symbolic links on the way to a file are followed before it is looked up here.
      - They replace those that are here when the tree runs here, and not before.
    type: list
    elements: path
    default: []
  source_timeout:
    description:
      - Seconds until a source has to have come.
    type: float
    default: 30
  decision_timeout:
    description:
      - Seconds that a tree which is ready waits for a source that was lost before it decided. It goes on there then.
    type: float
    default: 30
seealso:
  - module: stillframe.checkpoint.migrate
  - module: stillframe.checkpoint.process_info
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

- name: Look at the tree on its own host
  stillframe.checkpoint.process_info:
    systemd_unit: redis-server
  delegate_to: source
  register: redis

- name: See whether it can come here
  stillframe.checkpoint.receive:
    address: 192.0.2.2
    port: 7000
    needs: "{{ redis.needs }}"
  check_mode: true
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
obstacles:
  description: Each thing that keeps the tree of O(needs) from coming here.
  returned: in check mode, when something does
  type: list
  elements: dict
  contains:
    pid:
      description: The process that it is about, V(0) for none.
      type: int
      sample: 0
    where:
      description: The file, port, number or feature.
      type: str
      sample: port 6379
    why:
      description: Why it stands in the way.
      type: str
      sample: another program listens on it here, at 127.0.0.1
    remedy:
      description: What to do about it.
      type: str
      sample: end that program
"""

import json
import os
import socket
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.errors import UnsupportedError
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
    "port": {"type": "int", "required": True},
    "track_mem": {"type": "bool", "default": False},
    "file_validation": {"type": "str", "choices": ["filesize", "buildid"], "default": "buildid"},
    "ready_file": {"type": "path"},
    "needs": {"type": "dict"},
    "accept_files": {"type": "list", "elements": "path", "default": []},
    "source_timeout": {"type": "float", "default": 30},
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
    with listen(params["address"], params["port"]) as listener:
        if module.check_mode:
            _refuse(params["needs"], params["accept_files"])
            return Outcome(True, {})
        with _said(params["ready_file"], listener):
            result = receive(options, acceptor(listener, tls, log.logger), log.logger)
    return Outcome(result is not None, result or {})


def _refuse(wanted: Optional[Dict[str, Any]], accepted: List[str]) -> None:
    """Raise UnsupportedError with all of WANTED that is not here, of files that are to come what is not ACCEPTED or has no room."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer import preflight
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.arriving import ArrivingFiles
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.needs import Needs

    found = preflight.lacking(Needs.read(wanted), ArrivingFiles(accepted, "none"))[0] if wanted else []
    if found:
        raise UnsupportedError(found)


@contextmanager
def _said(path: Optional[str], listener: socket.socket) -> Iterator[None]:
    """Have the file PATH say where LISTENER waits, and who it is."""
    if not path:
        yield
        return
    address, port = listener.getsockname()[:2]
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        json.dump({"address": address, "port": port, "pid": os.getpid()}, file)
    os.rename(f"{path}.partial", path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING)


if __name__ == "__main__":
    main()
