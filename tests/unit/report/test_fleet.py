# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a fleet: what is picked for it, what is remembered from one to the next, and its metrics."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List

import pytest

from _report.fleet import fleet_facts, fleet_page, seconds
from _report.metrics import fleet_metrics

FINISHED = "2026-11-25T10:00:00+00:00"
ABOUT = {"finished": "2026-11-25 10:00:01 UTC"}
HOSTILE = "a\\b\"c\nd </script><b>{{ x }}"


def dump(number: int, **values: Any) -> Dict[str, Any]:
    """Return what image_info tells of a dump, taken in minute NUMBER."""
    known = {"path": f"/var/c/redis/{number}", "id": "x", "created": f"2026-11-25T09:{number:02}:00Z", "kind": "dump", "restorable": True}
    return {**known, "bytes_on_disk": 4096 * number, "pages_written": 600 * number, "frozen_time": 1000 * number, "why_not": "", **values}


def service(name: str = "redis", **steps: Any) -> Dict[str, Any]:
    """Return what the role tells of a service with three dumps; the chain comes newest first."""
    info = {"chain": [dump(3), dump(2), dump(1, pages_written=None, frozen_time=None)]}
    verify = {"dumps": [{}] * 4, "faults": []}
    return {"name": name, "images_root": f"/var/c/{name}", "failures": [], "info": info, "verify": verify, **steps}


def host(*services: Dict[str, Any], unreachable: str = "") -> Dict[str, Any]:
    return {"host": "h", "finished": FINISHED, "unreachable": unreachable, "services": list(services)}


def report(hosts: Dict[str, Dict[str, Any]], **about: Any) -> Dict[str, Any]:
    """Return the facts, which went through JSON."""
    return dict(json.loads(json.dumps(fleet_facts(hosts, {**ABOUT, **about}))))


def samples(text: str) -> Dict[str, float]:
    """Return the samples of TEXT by name and labels, which is to be Prometheus' text format: HELP, TYPE and samples of each metric."""
    found: Dict[str, float] = {}
    typed = ""
    for line in text.splitlines():
        comment = re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line)
        if comment:
            typed = comment[2] if comment[1] == "TYPE" and comment[3] in ("gauge", "counter") else typed
            continue
        sample = re.fullmatch(r'(([a-z_]+)(?:\{(?:[a-z]+="(?:[^"\\]|\\[\\"n])*",?)*\})?) (\S+)', line)
        assert sample and sample[2] == typed and sample[1] not in found, line
        assert not typed.endswith("_total") or "counter" in text
        found[sample[1]] = float(sample[3])
    assert not text or text.endswith("\n")
    return found


def test_the_chain_is_told_from_its_beginning() -> None:
    (one,) = report({"a": host(service())})["hosts"][0]["services"]
    assert [found["path"][-1] for found in one["dumps"]] == ["1", "2", "3"]
    assert (one["dumps_in_all"], one["bytes_on_disk"]) == (4, 4096 * 6)
    assert one["drill"] is None and one["last_good_drill"] == ""


def test_what_was_freed_adds_up_and_good_drills_are_remembered() -> None:
    steps = {"dedup": {"bytes_freed": 100}, "prune": {"bytes_freed": 50, "failed": False}, "drill": {"good": True}}
    first = report({"a": host(service(**steps)), "b": host(service())})
    second = report({"a": host(service(dedup={"bytes_freed": 7}, drill={"good": False})), "b": host(service())}, previous=first)
    (one,), (other,) = (found["services"] for found in second["hosts"])
    assert one["freed"] == {"dedup": 7, "squash": 0, "prune": 0}
    assert one["freed_in_all"] == {"dedup": 107, "squash": 0, "prune": 50}
    assert one["drill"] is False and one["last_good_drill"] == FINISHED
    assert other["freed_in_all"] == {"dedup": 0, "squash": 0, "prune": 0} and other["last_good_drill"] == ""


def test_hosts_of_which_nothing_is_known_are_there() -> None:
    made = report({"gone": {}, "down": host(unreachable="ssh: no route"), "up": host(service())})
    assert [found["unreachable"] for found in made["hosts"]] == ["nothing was done there", "ssh: no route", ""]
    page = fleet_page(made)
    assert "nothing was done there" in page and "ssh: no route" in page and "1 of 3" in page
    assert fleet_metrics(made, "gone") == fleet_metrics(made, "down") == fleet_metrics(made, "elsewhere") == ""


@pytest.mark.parametrize("failed", [{"verify": {"failed": True, "msg": "x"}}, {"info": {"failed": True}}, {"info": {}, "verify": {}}])
def test_steps_that_failed_leave_out_what_they_would_have_told(failed: Dict[str, Any]) -> None:
    made = report({"a": host({**service(**failed), "failures": [{"step": "verify", "why": HOSTILE}]})})
    page = fleet_page(made)
    assert "verify failed" in page and "</script>" not in page
    assert samples(fleet_metrics(made, "a"))['stillframe_failed_steps{service="redis"}'] == 1


def test_an_empty_fleet_has_a_page() -> None:
    assert "There are no hosts." in fleet_page(report({}))


def test_a_large_fleet_has_a_page_that_can_be_opened() -> None:
    chain = {"chain": [dump(number) for number in range(50, 0, -1)]}
    page = fleet_page(report({f"h{at}": host(*(service(f"s{one}", info=chain) for one in range(10))) for at in range(50)}))
    assert len(page) < 20 << 20 and page.count("<details>") == 500


def test_metrics() -> None:
    steps = {"prune": {"bytes_freed": -5}, "dedup": {"bytes_freed": 9}, "drill": {"good": True}}
    text = fleet_metrics(report({"a": host(service(**steps), service(HOSTILE)), "b": host(service())}), "a")
    found = samples(text)
    label = '{service="redis"}'
    assert found["stillframe_maintained_timestamp_seconds"] == seconds(FINISHED)
    assert found[f"stillframe_last_dump_timestamp_seconds{label}"] == seconds("2026-11-25T09:03:00Z")
    assert found[f"stillframe_last_dump_frozen_seconds{label}"] == pytest.approx(0.003)
    assert (found[f"stillframe_chain_dumps{label}"], found[f"stillframe_dumps{label}"]) == (3, 4)
    assert found[f"stillframe_last_good_drill_timestamp_seconds{label}"] == seconds(FINISHED)
    assert found[f"stillframe_drill_good{label}"] == 1
    freed: List[float] = [found[f'stillframe_freed_bytes_total{{service="redis",by="{step}"}}'] for step in ("dedup", "squash", "prune")]
    assert freed == [9, 0, 0]
    assert 'stillframe_dumps{service="a\\\\b\\"c\\nd </script><b>{{ x }}"}' in found
    assert not [name for name in found if name.startswith("stillframe_drill_good") and "script" in name]
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "the samples of a metric stand together"
