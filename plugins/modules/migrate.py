#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migrate
short_description: Move a process tree to another host while it runs
version_added: 0.1.0
description:
  - Sends the memory of a process tree in rounds, while it runs, to M(stillframe.checkpoint.receive) on another host. When little is
    left it stops, the rest and its state are sent, and it goes on there and no longer here.
  - What stands in the way, on either host, is told at once, before anything is touched. Where the move fails later, the tree goes on here.
  - If the connection is lost at the very moment of the decision and cannot be made again, the tree is left stopped, and the module says
    how to find out where it is to run.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._process
  - stillframe.checkpoint._move
  - stillframe.checkpoint._images.external
  - stillframe.checkpoint._page_server.tls
attributes:
  check_mode:
    support: full
    details:
      - Tells what stands in the way on both hosts, and how the move would go. The tree is watched for a second while it runs, and
        nothing in it is changed.
      - The destination is asked if RV(asked) says so. That is when O(port) is given and a receiver listens there, which goes on waiting.
        Otherwise a warning says that only this host was looked at.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - A tree that has moved is not here any more.
options:
  port:
    description:
      - The port that the destination listens on. It can be left out in check mode only.
    type: int
    default: 0
  max_downtime:
    description:
      - Seconds that the tree may stand still. The rounds end when the rest is expected to be sent in what of that all else leaves,
        or in a tenth of it.
    type: float
    default: 0.1
  max_rounds:
    description:
      - The most rounds before the tree is stopped.
    type: int
    default: 10
  bandwidth_limit:
    description:
      - Bytes a second that are sent at most, V(0) for no limit.
    type: int
    default: 0
  compress:
    description:
      - Whether memory is compressed on its way, by zstd. It needs the Python library C(zstandard) on both hosts, or Python 3.14.
      - V(auto) tries it, and goes on with what is quicker, without it where a host has no such library. V(zstd) fails there.
    type: str
    choices: [none, zstd, auto]
    default: none
  carry_files:
    description:
      - Files that move along with the tree, with their owner, mode, time of change and extended attributes.
      - V(open) stands for the regular files that the tree has open for writing, or mapped so, and V(none) for none. Anything else is the
        path of a regular file.
      - They are sent while the tree runs, and what has changed since while it stands still. On the destination they are in their places
        only when the tree runs there. A move that fails leaves the files there as they were.
      - The destination takes those that its O(stillframe.checkpoint.receive#module:accept_files) allows, and no others. Files on storage
        that both hosts have mounted are not sent.
    type: list
    elements: str
    default: []
  tracker:
    description:
      - What tells which memory has changed. Where nothing can, all of it is sent while the tree stands still.
    type: str
    choices: [auto, uffd_wp, soft_dirty, compare]
    default: auto
  skip_in_flight:
    description:
      - Let go the TCP connections that have not been accepted yet. Without it, a tree that has any is refused.
    type: bool
    default: false
  timeout:
    description:
      - Seconds allowed for stopping the tree.
    type: float
    default: 10
  decision_timeout:
    description:
      - Seconds to find out what became of the tree when the connection was lost at the decision. More than that of the destination.
    type: float
    default: 60
seealso:
  - module: stillframe.checkpoint.receive
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Move the service to the host that waits for it
  stillframe.checkpoint.migrate:
    systemd_unit: redis-server
    address: 192.0.2.2
    port: 7000
    tls_cert: /etc/stillframe/cert.pem
    tls_key: /etc/stillframe/key.pem
    tls_peer_cert: /etc/stillframe/destination.pem
    max_downtime: 0.05
"""

RETURN = r"""
session:
  description: The identity of the move, a UUID.
  returned: success, outside check mode
  type: str
  sample: 5210e903-2fce-4232-98cb-6cb5ea488568
pids:
  description: The processes of the tree, its root first.
  returned: success
  type: list
  elements: int
  sample: [4711, 4712]
rounds:
  description: Each round while the tree ran.
  returned: success, outside check mode
  type: list
  elements: dict
  contains:
    number:
      description: Its number, from 1.
      type: int
      sample: 2
    pages:
      description: Pages that were sent.
      type: int
      sample: 5459
    bytes:
      description: Bytes that were sent.
      type: int
      sample: 22447015
    time:
      description: Microseconds that it took.
      type: int
      sample: 120000
    dirty_rate:
      description: Pages a second that the tree wrote to since the round before, V(0) for the first.
      type: int
      sample: 2459
enough:
  description: Why there were no more rounds, V(fits), V(not shrinking), V(max_rounds), or V(untracked).
  returned: success, outside check mode
  type: str
  sample: fits
stop:
  description: The parts of the time that the tree stood still, in microseconds, with the pages and bytes that were sent in it.
  returned: success, outside check mode
  type: dict
  sample: {freeze: 450, scan: 8300, copy: 20500, send: 1300, apply: 21700, resume: 14000, pages: 16, bytes: 74193}
lock_table:
  description: The table of nf_tables that drops the packets of its connections here, to be deleted when their address has moved, or empty.
  returned: success, outside check mode
  type: str
  sample: CRIU-6f1c2f0e-3b1f-4b6e-9
wall_time:
  description: Microseconds from beginning to end.
  returned: success, outside check mode
  type: int
  sample: 4800000
asked:
  description: Whether the destination was asked what stands in the way there.
  returned: success, in check mode
  type: bool
  sample: true
predicted:
  description: How the move would go, reckoned from how the tree wrote to a sample of its memory in one second.
  returned: success, in check mode
  type: dict
  contains:
    rounds:
      description: Rounds while the tree runs.
      type: int
      sample: 3
    bytes:
      description: Bytes that would be sent, in the rounds and while the tree stands still.
      type: int
      sample: 1152921504
    downtime:
      description: Microseconds that the tree would stand still.
      type: int
      sample: 75000
    dirty_rate:
      description: Pages a second that the tree wrote to.
      type: int
      sample: 2459
    rate:
      description:
        - Bytes a second that the connection was reckoned with, as measured with the destination.
        - Where that was not asked, O(bandwidth_limit) or 117000000.
      type: int
      sample: 640000000
    enough:
      description: Why the rounds would end, as in RV(enough).
      type: str
      sample: fits
obstacles:
  description:
    - Each thing that stands in the way, on either host. Nothing was touched then.
  returned: when something stands in the way
  type: list
  elements: dict
  contains:
    pid:
      description: The process that it is about, V(0) for none.
      type: int
      sample: 4711
    where:
      description: The descriptor, mapping, file or state.
      type: str
      sample: fd 7
    why:
      description: Why it stands in the way.
      type: str
      sample: io_uring instances are not supported
    remedy:
      description: What to do about it.
      type: str
      sample: have the program close it
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.errors import UsageError
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.options import MigrateOptions
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.transfer.ends import connector
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import (
    Outcome,
    engine_options,
    find_tree,
    open_module_log,
    run,
    tls_options,
)

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.PROCESS,
    **_argspecs.MOVE,
    **_argspecs.EXTERNAL,
    **_argspecs.TLS,
    "port": {"type": "int", "default": 0},
    "max_downtime": {"type": "float", "default": 0.1},
    "max_rounds": {"type": "int", "default": 10},
    "bandwidth_limit": {"type": "int", "default": 0},
    "compress": {"type": "str", "choices": ["none", "zstd", "auto"], "default": "none"},
    "carry_files": {"type": "list", "elements": "str", "default": []},
    "tracker": {"type": "str", "choices": ["auto", "uffd_wp", "soft_dirty", "compare"], "default": "auto"},
    "skip_in_flight": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 10},
    "decision_timeout": {"type": "float", "default": 60},
}


def work(module: AnsibleModule) -> Outcome:
    """Move the tree, or tell how that would go."""
    params = {**module.params, "images_dir": "/", "work_dir": "/"}
    log, tree = open_module_log(params), find_tree(params)
    tls = tls_options(params) if params["port"] else None
    options = engine_options(MigrateOptions, params, log, tree=tree)
    if not params["port"] and not module.check_mode:
        raise UsageError("the port that the destination listens on is not given; give it as port")
    connect = connector(params["address"], params["port"], tls) if params["port"] else None
    if module.check_mode or connect is None:
        from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.migrate_plan import plan

        return Outcome(True, plan(options, connect, log.logger))
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.migrate import migrate

    return Outcome(True, migrate(options, connect, log.logger))


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING)


if __name__ == "__main__":
    main()
