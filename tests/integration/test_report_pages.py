# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of the reports, in a real browser: what they show, and that everybody can read it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_faults
import pytest
from _report.fleet import fleet_facts, fleet_page
from _report.migration import PARTS, migration_facts, migration_page
from browser import Browser

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

HOSTILE = "red\"is' <script>document.title='x'</script><img src=https://example.com/x onerror=f()> {{ 7 * 7 }} \x07\u202e&amp; --></style>"
ABOUT = {"service": "redis", "source": "db1", "destination": "db2", "finished": "2026-11-25 10:00:00 UTC"}
MOVED: dict[str, Any] = {
    "changed": True,
    "failed": False,
    "session": "5210e903-2fce-4232-98cb-6cb5ea488568",
    "pids": [4711, 4712],
    "rounds": [
        {"number": 1, "pages": 262144, "bytes": 1075838976, "time": 1900000, "dirty_rate": 0},
        {"number": 2, "pages": 5459, "bytes": 22447015, "time": 120000, "dirty_rate": 2873},
        {"number": 3, "pages": 311, "bytes": 1277952, "time": 21000, "dirty_rate": 2591},
    ],
    "enough": "fits",
    "stop": {"freeze": 450, "scan": 8300, "copy": 20500, "send": 1300, "apply": 21700, "resume": 14000, "pages": 16, "bytes": 74193},
    "lock_table": "CRIU-6f1c2f0e-3b1f-4b6e-9",
    "wall_time": 4800000,
    "warnings": [],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser for all tests."""
    with Browser(str(CHROMIUM), tmp_path_factory.mktemp("browser")) as one:
        yield one


def migration(result: dict[str, Any], **about: Any) -> str:
    """Return the page of a migration, whose facts went through JSON."""
    return migration_page(json.loads(json.dumps(migration_facts(result, {**ABOUT, **about}))))


def show(browser: Browser, folder: Path, content: str) -> None:
    """Show a page, and see that everybody can read it: narrow and wide, light and dark, on paper, without a script."""
    page = folder / "page.html"
    page.write_text(content, encoding="utf-8")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    assert browser.open(page) == []
    for width, dark, media in ((1200, False, "screen"), (360, True, "screen"), (700, True, "print")):
        browser.show(width, dark, media)
        for fault in page_faults.EVERY:
            assert browser.evaluate(fault) == [], f"{fault} at {width} pixels, {media}"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", "paper is white"
    browser.show(1200)


def texts(browser: Browser, selector: str) -> list[str]:
    """Return the texts of what SELECTOR finds."""
    found = browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
    assert isinstance(found, list)
    return found


def lengths(browser: Browser, plot: str, side: str) -> list[float]:
    """Return how long the bars of the plot named PLOT are on the screen."""
    bars = f"[...document.querySelectorAll('svg[aria-label^={json.dumps(plot)}] rect')].map(e => e.getBoundingClientRect().{side})"
    return list(browser.evaluate(bars))


def test_a_migration(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, migration(MOVED))
    assert texts(browser, "h1") == ["redis: moved from db1 to db2"]
    assert dict(zip(texts(browser, "dt"), texts(browser, "dd")))["It stood still for"] == "66.2 ms"
    rounds = lengths(browser, "Time line of the rounds", "width")
    assert len(rounds) == 4 and rounds == sorted(rounds[:3], reverse=True) + rounds[3:]
    assert rounds[0] / rounds[1] == pytest.approx(1900 / 120, rel=0.02)
    parts = lengths(browser, "The parts of the stop", "width")
    assert [width / sum(parts) for width in parts] == pytest.approx([MOVED["stop"][part] / 66250 for part in PARTS], abs=0.005)
    begins = lengths(browser, "The parts of the stop", "left")
    assert [begin + width for begin, width in zip(begins, parts)][:-1] == pytest.approx(begins[1:], abs=1)
    for plot, figures in (("Bytes sent", "bytes"), ("Pages sent", "pages")):
        heights = lengths(browser, plot, "height")
        assert len(heights) == 4
        assert heights[0] / heights[1] == pytest.approx(MOVED["rounds"][0][figures] / MOVED["rounds"][1][figures], rel=0.02)
    second = texts(browser, "section:nth-of-type(1) tbody tr:nth-child(2) > *")
    assert second == ["2", "120.0 ms", "21.4 MiB", "5,459", "178 MiB/s", "2,873"]
    assert "was expected to fit" in texts(browser, "section:nth-of-type(1) > p")[0]
    assert texts(browser, "section:nth-of-type(2) tbody th") == list(PARTS)


def test_a_migration_that_failed(browser: Browser, tmp_path: Path) -> None:
    obstacle = {"pid": 4711, "where": "fd 7", "why": "io_uring instances are not supported", "remedy": "have the program close it"}
    arguments = {"module_args": {"tls_key": "/k"}}
    failed = {"failed": True, "msg": "process 4711 cannot be moved", "obstacles": [obstacle], "invocation": arguments}
    content = migration(failed, runs_on="db1", failed_task="Move it")
    show(browser, tmp_path, content)
    assert "/k" not in content
    assert texts(browser, "h1") == ["redis: not moved from db1 to db2"]
    assert texts(browser, "h1 + p") == ["It was not moved. It runs on db1."]
    assert texts(browser, ".fault p") == ["In task: Move it", "process 4711 cannot be moved"]
    assert texts(browser, "section:nth-of-type(1) tbody tr > *") == ["fd 7", "4711", obstacle["why"], obstacle["remedy"]]
    assert texts(browser, "svg") == []


def test_a_migration_whose_check_failed(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, migration({"failed": True, "msg": "no PONG"}, runs_on="db2", failed_task="Run its check"))
    assert texts(browser, "h1") == ["redis: moved from db1 to db2"]
    assert texts(browser, "h1 + p") == ["It was moved, and something failed afterwards. It runs on db2."]


def test_a_migration_with_names_that_would_harm(browser: Browser, tmp_path: Path) -> None:
    stopped = {**MOVED["stop"], **dict.fromkeys(PARTS, 0)}
    rounds = [{**MOVED["rounds"][1], "number": number} for number in range(1, 121)]
    result = {**MOVED, "warnings": [HOSTILE, "x" * 3000], "stop": stopped, "rounds": rounds, "session": HOSTILE, "enough": HOSTILE}
    names = dict.fromkeys(("service", "source", "destination", "runs_on", "verification", "finished"), HOSTILE)
    show(browser, tmp_path, migration(result, **names, received={"warnings": [HOSTILE]}))
    shown = re.sub("[\x07\u202e]", "\ufffd", HOSTILE)
    assert texts(browser, "h1") == [f"{shown}: moved from {shown} to {shown}"]
    assert browser.evaluate("document.title").startswith("red\"is' <script>")
    assert texts(browser, ".note p") == [shown, "x" * 3000, shown]


def fleet(services: dict[str, dict[str, Any]], **more: dict[str, Any]) -> str:
    """Return the page of a fleet: of one host with SERVICES, and of MORE, whose facts went through JSON."""
    told = [{"name": name, "images_root": f"/var/c/{name}", "failures": [], **one} for name, one in services.items()]
    hosts = {"db1": {"finished": "2026-11-25T10:00:00+00:00", "unreachable": "", "services": told}, **more}
    return fleet_page(json.loads(json.dumps(fleet_facts(hosts, {"finished": "2026-11-25 10:00:01 UTC"}))))


def chain(*sizes: int) -> dict[str, Any]:
    """Return what is told of dumps of SIZES MiB, taken each minute."""
    dumps = [
        {"path": f"/var/c/x/{number}", "created": f"2026-11-25T09:{number:02}:00Z", "restorable": number > 1, "bytes_on_disk": mib << 20}
        | {"kind": "dump", "pages_written": 256 * mib, "frozen_time": 1000 * number}
        for number, mib in enumerate(sizes, 1)
    ]
    return {"info": {"chain": dumps[::-1]}, "verify": {"dumps": dumps, "faults": []}}


def test_a_fleet(browser: Browser, tmp_path: Path) -> None:
    good = {**chain(100, 20, 40), "drill": {"good": True}, "dedup": {"bytes_freed": 3 << 20}}
    fault = {"path": "/var/c/cache/1/pages-1.img", "offset": 4096, "why": "its checksum does not match"}
    damaged = {**chain(10), "failures": [{"step": "verify", "why": "1 fault"}]}
    damaged["verify"]["faults"] = [fault]
    content = fleet({"redis": good, "cache": damaged}, db2={"unreachable": "no route to host", "services": []}, db3={})
    show(browser, tmp_path, content)
    assert texts(browser, "h1") == ["Dumps of 2 services on 3 hosts"]
    summed = dict(zip(texts(browser, "dt"), texts(browser, "dd")))
    assert summed["Hosts looked at"] == "1 of 3" and summed["On disk"] == "170 MiB" and summed["Freed by this run"] == "3.0 MiB"
    assert summed["Faults"] == "1" and summed["Good drills"] == "1 of 1"
    wrong = texts(browser, "section:nth-of-type(1) tbody tr")
    assert len(wrong) == 4 and fault["path"] in wrong[0] and "no route to host" in wrong[2] and "nothing was done there" in wrong[3]
    redis = texts(browser, "section:nth-of-type(2) tbody tr:nth-child(1) > *")
    assert redis[:4] == ["redis on db1", "2026-11-25 09:03", "3", "160 MiB"]
    assert redis[5:] == ["3.0 ms", "171", "3.0 MiB", "2026-11-25 10:00"]
    widths = lengths(browser, "The largest services", "width")
    assert widths[0] / widths[1] == pytest.approx(16, rel=0.02)
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    heights = lengths(browser, "Sizes of redis", "height")
    assert [height / heights[0] for height in heights] == pytest.approx([1, 0.2, 0.4], abs=0.01)
    rows = texts(browser, "details:nth-of-type(1) tbody tr:nth-child(3) > *")
    assert rows == ["1", "2026-11-25 09:01", "no", "100 MiB", "25,600", "1.0 ms", "–"]


def test_a_fleet_with_names_that_would_harm(browser: Browser, tmp_path: Path) -> None:
    many = {f"{number} {HOSTILE}": chain(*range(1, 51)) for number in range(3)}
    many["none"] = {"failures": [{"step": HOSTILE, "why": "x" * 3000}]}
    show(browser, tmp_path, fleet(many, **{HOSTILE: {"unreachable": HOSTILE}}))
    assert texts(browser, "title")[0] == "Dumps of 4 services on 2 hosts"
    assert texts(browser, "script") == texts(browser, "img") == []


def test_an_empty_fleet(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, fleet_page(fleet_facts({}, {})))
    assert "There are no hosts." in texts(browser, "main p")[0]
