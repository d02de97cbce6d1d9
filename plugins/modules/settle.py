#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: settle
short_description: Bring a move that was left in doubt to its end
version_added: 0.1.0
description:
  - Where the connection, or an engine, was lost at the very moment when M(stillframe.checkpoint.migrate) decided, the tree is left stopped
    on its own host, since nobody can tell then whether it runs on the other one. This asks a M(stillframe.checkpoint.receive) there.
  - If the tree runs there, it is ended here; if not, it goes on here.
  - A tree that no move has left stopped is left as it is.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._process
  - stillframe.checkpoint._page_server.tls
attributes:
  check_mode:
    support: full
    details:
      - Tells whether there is anything to settle. Nobody is asked.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  address:
    description:
      - The address that the destination listens on.
    type: str
    default: 127.0.0.1
  port:
    description:
      - The port that the destination listens on. Not needed in check mode.
    type: int
    default: 0
  timeout:
    description:
      - Seconds that the destination may take to answer.
    type: float
    default: 30
seealso:
  - module: stillframe.checkpoint.migrate
  - module: stillframe.checkpoint.receive
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Find out where the service is to run
  stillframe.checkpoint.settle:
    systemd_unit: redis-server
    address: 192.0.2.2
    port: 7000
    tls_cert: /etc/stillframe/cert.pem
    tls_key: /etc/stillframe/key.pem
    tls_peer_cert: /etc/stillframe/destination.pem
"""

RETURN = r"""
session:
  description: The identity of the move that left it in doubt, or empty.
  returned: success
  type: str
  sample: 5210e903-2fce-4232-98cb-6cb5ea488568
moved:
  description: Whether the tree runs on the other host.
  returned: success, outside check mode
  type: bool
  sample: true
lock_table:
  description: The table of nf_tables that may drop packets of its connections here, to be deleted when their address has moved, or empty.
  returned: success
  type: str
  sample: CRIU-6f1c2f0e-3b1f-4b6e-9
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import Outcome, find_tree, run, tls_options

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.PROCESS,
    **_argspecs.TLS,
    "address": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 0},
    "timeout": {"type": "float", "default": 30},
}


def work(module: AnsibleModule) -> Outcome:
    """Ask the destination about the tree, if there is any doubt."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.decision import undecided

    record = undecided(find_tree(module.params))
    known = {"session": record.session if record else "", "lock_table": record.lock_table if record else ""}
    if record is None or module.check_mode:
        return Outcome(record is not None, known if module.check_mode else {**known, "moved": False})
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.migrate import settle
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.ends import connector

    connect = connector(module.params["address"], module.params["port"], tls_options(module.params))
    return Outcome(True, {**known, "moved": settle(record.session, connect, module.params["timeout"])})


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING)


if __name__ == "__main__":
    main()
