# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting a dump that was made anew in the place of the old one, in one step: whoever looks finds the one or the other, both whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from ..images.chain import Chain
from ..images.directory import dump_files, is_dump, parent_link
from ..images.fault import faults
from ..kernel.exchange import exchange
from .merged import Plan, write_anew
from .removal import empty, hidden, sync

_SUFFIX = ".squashed"


def put_in_place(chain: Chain, onto: int, plans: Mapping[str, Plan]) -> None:
    """Make the newest dump of CHAIN anew by PLANS, on top of that at level ONTO or of none; the old one is beside it then.

    Raises ImagesError; then nothing was changed.
    """
    path = os.path.realpath(chain.top.path)
    beside = old_of(path)
    there = os.stat(path)
    with faults("write", beside), ExitStack() as undo:
        os.mkdir(beside, 0o700)
        undo.callback(empty, beside)
        write_anew(chain, onto, plans, beside)
        os.chown(beside, there.st_uid, there.st_gid)
        os.chmod(beside, there.st_mode & 0o7777)
        exchange(path, beside)
        undo.pop_all()
        sync(os.path.dirname(path))


def old_of(path: str) -> str:
    """Return where the old dump of PATH is, or the new one as long as it is being made."""
    return hidden(path, _SUFFIX)


def was_put(path: str) -> bool:
    """Return whether beside the dump in PATH, a full one, is still the old one, which was none."""
    return is_dump(old_of(path)) and bool(parent_link(old_of(path))) and is_dump(path) and not parent_link(path)


def remove_old(path: str) -> None:
    """Remove what is beside the dump in PATH, when there is anything; all but the dump's own files is kept. Raises ImagesError."""
    beside = old_of(path)
    if not os.path.isdir(beside):
        return
    with faults("move", beside):
        known = set(dump_files(beside))
        for name in os.listdir(beside):
            if name not in known and not os.path.lexists(os.path.join(path, name)):
                os.rename(os.path.join(beside, name), os.path.join(path, name))  # a log, a pin, whatever is kept there
    empty(beside)


def paths_with_old(root: str) -> list[str]:
    """Return the paths of the dumps in ROOT that have something beside them."""
    with faults("list", root):
        names = [name for name in os.listdir(root) if name.startswith(".") and name.endswith(_SUFFIX)]
    return [os.path.join(root, name[1 : -len(_SUFFIX)]) for name in sorted(names)]
