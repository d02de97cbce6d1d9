# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of one migration: as facts that are kept as JSON, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import plots
from .markup import Child, Markup, join, tag
from .page import Column, facts, note, page, section, table
from .units import count, duration, size

FORMAT = 1
"""Of the facts: raised when a reader of an older one would misread them."""
PARTS = {
    "freeze": "Stopping all its processes",
    "scan": "Reading its state, and finding what it has written to",
    "copy": "Taking these pages, and writing the images",
    "send": "Sending them",
    "apply": "Completing it on the other host",
    "resume": "Deciding where it runs, until it runs there",
}
_ENOUGH = {
    "fits": "what was left was expected to fit the downtime that was allowed",
    "not shrinking": "they no longer made what was left smaller",
    "max_rounds": "no more were allowed",
    "untracked": "nothing on that host tells which memory changes, so all of it was sent while the service stood still",
}
_KEPT = ("session", "pids", "rounds", "enough", "stop", "lock_table", "wall_time", "warnings", "msg", "obstacles")
"""What of the result of the module is kept: no arguments, which name keys."""
_KEPT_THERE = ("restore_time", "pages_restored", "pid", "warnings")


def migration_facts(result: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be known of a migration from the RESULT of module migrate, or of the task that failed.

    ABOUT has service, source, destination and finished (a time), and may have runs_on, failed_task, received and verification.
    """
    failed = bool(result.get("failed"))
    known = {name: result[name] for name in _KEPT if name in result}
    received = {name: value for name, value in (about.get("received") or {}).items() if name in _KEPT_THERE}
    return {
        "format": FORMAT,
        "outcome": "failed" if failed else "moved",
        "service": str(about.get("service", "")),
        "source": str(about.get("source", "")),
        "destination": str(about.get("destination", "")),
        "finished": str(about.get("finished", "")),
        "runs_on": str(about.get("runs_on") or ("" if failed else about.get("destination", ""))),
        "failed_task": str(about.get("failed_task") or ""),
        "verification": str(about.get("verification") or ""),
        "downtime": 0 if failed else sum(known.get("stop", {}).get(part, 0) for part in PARTS),
        "received": received,
        **known,
    }


def migration_page(report: Mapping[str, Any]) -> str:
    """Return the page that shows REPORT, facts as `migration_facts` returns them."""
    failed = report["outcome"] == "failed"
    name = report["service"] or "a service"
    came = not failed or _came(report)
    title = f"{name}: {'moved' if came else 'not moved'} from {report['source']} to {report['destination']}"
    made = f"stillframe.checkpoint, {report['finished']}. Times are those of the source."
    sections = (_outcome(report, failed), _summary(report), _course(report), _stop(report), _rest(report))
    return page(title, tag("h1", title), *sections, made=made)


def _outcome(report: Mapping[str, Any], failed: bool) -> Markup:
    if not failed:
        text = "Moved."
        where = f" It runs on {report['runs_on']}, and no longer on {report['source']}." if report["runs_on"] else ""
        return tag("p", tag("span", text, class_="good"), where)
    where = f" It runs on {report['runs_on']}." if report["runs_on"] else ""
    task = tag("p", f"In task: {report['failed_task']}", class_="soft") if report["failed_task"] else None
    message = note(task, tag("p", str(report.get("msg", "No reason was given."))), fault=True)
    outcome = "It was moved, and something failed afterwards." if _came(report) else "It was not moved."
    return join(tag("p", tag("span", outcome, class_="bad"), where), message, _obstacles(report.get("obstacles", ())))


def _came(report: Mapping[str, Any]) -> bool:
    """Tell whether a service of which something failed runs on the destination all the same."""
    return bool(report["runs_on"]) and report["runs_on"] == report["destination"]


def _obstacles(obstacles: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not obstacles:
        return None
    columns = [Column("Where"), Column("Process", number=True), Column("Why it stands in the way"), Column("What to do")]
    rows = [
        (str(one.get("where", "")), str(one.get("pid") or "–"), str(one.get("why", "")), str(one.get("remedy", ""))) for one in obstacles
    ]
    return section("What stands in the way", table("All that was found, before anything was touched", columns, rows))


def _summary(report: Mapping[str, Any]) -> Markup | None:
    if "stop" not in report:
        return None
    rounds, stop = report.get("rounds", ()), report["stop"]
    sent = sum(one["bytes"] for one in rounds) + stop.get("bytes", 0)
    pages = sum(one["pages"] for one in rounds) + stop.get("pages", 0)
    return facts(
        [
            ("It stood still for", duration(report["downtime"])),
            ("The move took", duration(report.get("wall_time", 0))),
            ("Rounds while it ran", str(len(rounds))),
            ("Sent in all", size(sent)),
            ("Pages in all", count(pages)),
            ("Processes", str(len(report.get("pids", ())))),
        ]
    )


def _course(report: Mapping[str, Any]) -> Markup | None:
    if "stop" not in report:
        return None
    rounds, stop, downtime = report.get("rounds", ()), report["stop"], report["downtime"]
    spans, at = [], 0
    for one in rounds:
        spans.append(plots.Span(f"round {one['number']}", at, one["time"]))
        at += one["time"]
    spans.append(plots.Span("stop", at, downtime, 1))
    names = [str(one["number"]) for one in rounds] + ["stop"]
    sent = [one["bytes"] for one in rounds] + [stop.get("bytes", 0)]
    pages = [one["pages"] for one in rounds] + [stop.get("pages", 0)]
    columns = [Column("Round")] + [Column(name, number=True) for name in ("Time", "Sent", "Pages", "Sent a second", "Dirty pages a second")]
    rows = [
        (str(one["number"]), duration(one["time"]), size(one["bytes"]), count(one["pages"]), _rate(one), _dirty(one)) for one in rounds
    ]
    last = ("stop", duration(downtime), size(stop.get("bytes", 0)), count(stop.get("pages", 0)), "–", "–")
    what = "By round, and in the stop"
    why = _ENOUGH.get(report.get("enough", ""), report.get("enough", ""))
    return section(
        "Rounds",
        tag("p", f"It ran on while its memory was sent. There were no more rounds because {why}." if why else None),
        tag("figure", plots.spans("Time line of the rounds", "How long each took, one after the other, and the stop", spans, duration)),
        tag(
            "div",
            tag("figure", tag("figcaption", "Sent, by round"), plots.bars("Bytes sent", what, list(zip(names, sent)), size, 2, 1)),
            tag("figure", tag("figcaption", "Pages, by round"), plots.bars("Pages sent", what, list(zip(names, pages)), count, 10, 1)),
            class_="pair",
        ),
        table("The same in figures", columns, rows, last),
    )


def _stop(report: Mapping[str, Any]) -> Markup | None:
    if "stop" not in report:
        return None
    stop, total = report["stop"], report["downtime"]
    spans, at = [], 0
    for number, part in enumerate(PARTS):
        spans.append(plots.Span(part, at, stop.get(part, 0), number))
        at += stop.get(part, 0)
    columns = [Column("Part"), Column("Time", number=True), Column("Share", number=True), Column("What was done")]
    rows = [(part, duration(stop.get(part, 0)), _share(stop.get(part, 0), total), what) for part, what in PARTS.items()]
    return section(
        "The stop",
        tag("figure", plots.spans("The parts of the stop", "How long each took, one after the other", spans, duration)),
        table("The same in figures", columns, rows, ("all of it", duration(total), _share(total, total), "")),
    )


def _rest(report: Mapping[str, Any]) -> Markup | None:
    said = [str(one) for one in (*report.get("warnings", ()), *report["received"].get("warnings", ()))]
    pairs: list[tuple[str, Child]] = [("Finished", report["finished"]), ("Service", report["service"])]
    pairs += [("From", report["source"]), ("To", report["destination"])]
    if report.get("session"):
        pairs.append(("Session", tag("code", str(report["session"]))))
    if report.get("pids"):
        pairs.append(("Processes", ", ".join(map(str, report["pids"]))))
    if report["verification"]:
        pairs.append(("Check afterwards", report["verification"]))
    if report.get("lock_table"):
        why = "drops the packets of its connections on the source; delete it when their address has moved"
        pairs.append(("Table of nf_tables", join(tag("code", str(report["lock_table"])), f" {why}")))
    warnings = [note(tag("p", one)) for one in said]
    return join(
        section("Warnings", *warnings) if warnings else None,
        section("The move", table("What was moved, and where", [Column("What"), Column("Which")], pairs)),
    )


def _share(part: float, total: float) -> str:
    return f"{100 * part / total:.0f} %" if total else "–"


def _rate(one: Mapping[str, Any]) -> str:
    return f"{size(one['bytes'] * 1e6 / one['time'])}/s" if one["time"] else "–"


def _dirty(one: Mapping[str, Any]) -> str:
    return count(one["dirty_rate"]) if one.get("dirty_rate") else "–"
