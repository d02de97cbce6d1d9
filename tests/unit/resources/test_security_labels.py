# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree that was confined by a security module is restored in the same domain, or not at all."""

from __future__ import annotations

import os
from typing import Any

import pytest

from _engine.images.schema import message
from _engine.resources import credentials

US, TASK = os.getpid(), 7


def with_labels(monkeypatch: pytest.MonkeyPatch, ours: str, theirs: str = "") -> None:
    monkeypatch.setattr(credentials, "label", lambda pid, tid: ours if pid == US else theirs)


def dumped(monkeypatch: pytest.MonkeyPatch, ours: str, theirs: str) -> Any:
    with_labels(monkeypatch, ours, theirs)
    core = message("thread_core_entry")()
    credentials.fill_label(core, TASK, TASK)
    return core


@pytest.mark.parametrize(("label", "name"), [("service (enforce)", "service"), ("u:r:service_t:s0", "u:r:service_t:s0")])
def test_a_domain_is_recorded_and_wanted_again(monkeypatch: pytest.MonkeyPatch, label: str, name: str) -> None:
    core = dumped(monkeypatch, label, label)
    assert core.creds.lsm_profile == name and credentials.check(TASK, core) == []
    for other in ("", "unconfined", "other (enforce)"):
        with_labels(monkeypatch, other)
        (obstacle,) = credentials.check(TASK, core)
        assert obstacle.where == "security label" and name in obstacle.why


@pytest.mark.parametrize("label", ["", "unconfined"])
def test_who_is_not_confined_has_no_label(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    assert not dumped(monkeypatch, label, label).creds.HasField("lsm_profile")
    assert credentials.check(TASK, dumped(monkeypatch, label, label)) == []


def test_a_task_in_another_domain_is_refused_by_the_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    with_labels(monkeypatch, "unconfined", "service (enforce)")
    (obstacle,) = credentials.obstacles(TASK, TASK)
    assert "service (enforce)" in obstacle.why
