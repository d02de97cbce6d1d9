#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: page_server
short_description: Receive the memory of a dump from another host
version_added: 0.1.0
description:
  - Starts a page server in the background, which receives the memory of one dump from another host and then ends, or stops it.
  - It speaks the protocol of CRIU, whose C(criu dump --page-server) can send to it.
  - What does not come in whole leaves nothing behind. Who is not the client, or sends what makes no sense, is turned away, with a
    line in O(log_file), and the page server goes on waiting.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
  - stillframe.checkpoint._page_server.tls
attributes:
  check_mode:
    support: full
    details:
      - Tells whether a page server could be started. Nothing listens.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - With V(started), a page server runs for O(images_dir). One that runs already is left as it is.
      - With V(stopped), none runs. What it has received in part is removed. One whose dump is whole is waited for.
    type: str
    choices: [started, stopped]
    default: started
  images_dir:
    description:
      - The directory that the memory is put into. It is made, for root alone to read, where it is missing and the directory above it
        exists. It must hold no dump.
  prev_images_dir:
    description:
      - The directory of the dump before this one, relative to O(images_dir), for example V(../1/).
    type: str
  auto_dedup:
    description:
      - Free the data in the dumps before this one that this one replaces, as soon as this one is safe on disk.
    type: bool
    default: false
  address:
    description:
      - The address to listen on.
    type: str
    default: 127.0.0.1
  port:
    description:
      - The port to listen on, V(0) for a free one.
    type: int
    default: 0
  timeout:
    description:
      - Seconds after which the page server gives up waiting for a client, or for a client that says nothing any more. V(0) for never.
    type: float
    default: 3600
  log_file:
    description:
      - A file that the page server's log is written to. Without it there is no log.
    type: path
seealso:
  - module: stillframe.checkpoint.dump
  - module: stillframe.checkpoint.pre_dump
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Make a certificate on each of the two hosts
  ansible.builtin.command:
    cmd: >-
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650
      -subj /CN={{ inventory_hostname }} -keyout /run/move/key.pem -out /run/move/cert.pem
    creates: /run/move/cert.pem

- name: Start a page server on the destination, to which the source's certificate was copied
  stillframe.checkpoint.page_server:
    images_dir: /var/lib/checkpoints/redis/1
    address: 192.0.2.7
    tls_cert: /run/move/cert.pem
    tls_key: /run/move/key.pem
    tls_peer_cert: /run/move/source.pem
  register: server
  delegate_to: destination

- name: Send the memory there while the service goes on
  stillframe.checkpoint.pre_dump:
    systemd_unit: redis-server
    images_dir: /var/lib/checkpoints/redis/1
    page_server: true
    address: "{{ server.address }}"
    port: "{{ server.port }}"
    tls_cert: /run/move/cert.pem
    tls_key: /run/move/key.pem
    tls_peer_fingerprint: "{{ server.fingerprint }}"

- name: Leave no page server behind
  stillframe.checkpoint.page_server:
    images_dir: /var/lib/checkpoints/redis/1
    state: stopped
  delegate_to: destination
"""

RETURN = r"""
address:
  description: The address that the page server listens on.
  returned: when O(state=started), outside check mode
  type: str
  sample: 192.0.2.7
port:
  description: The port that it listens on.
  returned: when O(state=started), outside check mode
  type: int
  sample: 40803
pid:
  description: Its PID.
  returned: when O(state=started), outside check mode
  type: int
  sample: 4711
fingerprint:
  description: The SHA-256 fingerprint of its certificate, for the client to know it by; empty without TLS.
  returned: when O(state=started)
  type: str
  sample: 27c3b7ae0a77a2ee2c1b0d65ec5b9b0a6a70e8f3f0ce8d4fb2a5b3c1d9e8f701
complete:
  description: Whether the memory of a dump is there, whole.
  returned: success
  type: bool
  sample: false
"""

import errno
import os
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, run, tls_options

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.IMAGES,
    **_argspecs.TLS,
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "prev_images_dir": {"type": "str"},
    "auto_dedup": {"type": "bool", "default": False},
    "address": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 0},
    "timeout": {"type": "float", "default": 3600},
    "log_file": {"type": "path"},
}


def work(module: AnsibleModule) -> Outcome:
    """Start the page server, or stop it."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine import page_server_daemon as daemon
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.images.manifest import is_received

    images_dir, started = os.path.abspath(module.params["images_dir"]), module.params["state"] == "started"
    running = daemon.find(images_dir)
    before, after = {"state": "started" if running else "stopped"}, {"state": module.params["state"]}
    result: Dict[str, Any] = {"complete": is_received(images_dir)}
    changed = bool(running) is not started
    if started:
        result.update(_start(module, images_dir))
    elif changed and not module.check_mode:
        daemon.stop(images_dir)
        result["complete"] = is_received(images_dir)
    return Outcome(changed, result, before, after)


def _start(module: AnsibleModule, images_dir: str) -> Dict[str, Any]:
    """Return what there is to know of the page server of IMAGES_DIR, which is started if it does not run."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine import page_server_daemon as daemon
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.options import ReceiveOptions
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.page_server import check
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.tls import fingerprint

    params, tls, running = module.params, tls_options(module.params), daemon.find(images_dir)
    known = {"fingerprint": fingerprint(tls.cert) if tls else ""}
    options = ReceiveOptions(images_dir, params["prev_images_dir"], params["auto_dedup"], tls, params["timeout"] or None)
    if running is None and module.check_mode:
        if os.path.lexists(images_dir):
            check(options)
        elif not os.path.isdir(os.path.dirname(images_dir)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.path.dirname(images_dir))
        return known
    if running is None:
        if not os.path.isdir(images_dir):
            os.mkdir(images_dir, 0o700)
        running = daemon.start(options, params["address"], params["port"], params["log_file"])
    return {**known, "address": running.address, "port": running.port, "pid": running.pid}


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.IMAGES)


if __name__ == "__main__":
    main()
