# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the dumps of a fleet are: as facts that are kept as JSON, which the next report goes on from, and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from . import plots
from .markup import Child, Markup, join, tag
from .page import Column, facts, note, page, section, table
from .units import count, duration, size

FORMAT = 1
"""Of the facts: raised when a reader of an older one would misread them."""
_STEPS = ("dedup", "squash", "prune")
"""What frees room."""
_DUMP = ("path", "created", "kind", "restorable", "bytes_on_disk", "pages_written", "frozen_time")
"""What is kept of each dump."""
_LARGEST = 15
"""Services in the plot of sizes."""
_SHOWN = 25
"""Dumps of a service in its plots and its table; the JSON has all."""

Facts = Mapping[str, Any]


def fleet_facts(hosts: Mapping[str, Facts], about: Facts) -> dict[str, Any]:
    """Return what is to be known of the dumps of HOSTS, by name, each as the role `maintain` has them in maintain_facts, or empty.

    ABOUT has finished (a time), and may have previous, the facts of the run before: what was freed adds up, and the last good drill
    is remembered.
    """
    before = {(host["host"], one["name"]): one for host in (about.get("previous") or {}).get("hosts", ()) for one in host["services"]}
    return {"format": FORMAT, "finished": str(about.get("finished", "")), "hosts": [_host(*pair, before) for pair in hosts.items()]}


def _host(name: str, told: Facts, before: Mapping[tuple[str, str], Facts]) -> dict[str, Any]:
    finished, unreachable = str(told.get("finished") or ""), str(told.get("unreachable") or "")
    services = [_service(one, before.get((name, str(one["name"])), {}), finished) for one in told.get("services") or ()]
    return {"host": str(name), "finished": finished, "unreachable": unreachable if told else "nothing was done there", "services": services}


def _service(told: Facts, before: Facts, finished: str) -> dict[str, Any]:
    chain = (told.get("info") or {}).get("chain") or ()
    dumps = [{key: one.get(key) for key in _DUMP} for one in reversed(chain)]
    freed = {step: (told.get(step) or {}).get("bytes_freed") or 0 for step in _STEPS}
    earlier = before.get("freed_in_all") or {}
    drill, verify = told.get("drill") or {}, told.get("verify") or {}
    good = drill.get("good")
    return {
        "name": str(told["name"]),
        "images_root": str(told.get("images_root") or ""),
        "dumps": dumps,
        "dumps_in_all": len(verify.get("dumps") or dumps),
        "bytes_on_disk": sum(one["bytes_on_disk"] or 0 for one in dumps),
        "faults": [{key: one.get(key) for key in ("path", "offset", "why")} for one in verify.get("faults") or ()],
        "failures": [{"step": str(one.get("step")), "why": str(one.get("why"))} for one in told.get("failures") or ()],
        "freed": freed,
        "freed_in_all": {step: (earlier.get(step) or 0) + freed[step] for step in _STEPS},
        "drill": None if good is None else bool(good),
        "last_good_drill": finished if good else str(before.get("last_good_drill") or ""),
    }


def seconds(moment: object) -> float | None:
    """Return MOMENT, UTC as ISO 8601 has it, in seconds since 1970; None for what is no time."""
    try:
        found = datetime.fromisoformat(str(moment).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def fleet_page(report: Facts) -> str:
    """Return the page that shows REPORT, facts as `fleet_facts` returns them."""
    hosts, services = report["hosts"], list(_services(report))
    title = f"Dumps of {_number(len(services), 'service')} on {_number(len(hosts), 'host')}"
    sections = (_summary(services, hosts), _wrong(report), _overview(services), _sizes(services), _each(services))
    return page(title, tag("h1", title), *sections, made=f"stillframe.checkpoint, {report['finished']}. Times are UTC.")


def _services(report: Facts) -> Iterator[tuple[str, Facts]]:
    for host in report["hosts"]:
        for service in host["services"]:
            yield host["host"], service


def _number(number: int, name: str) -> str:
    return f"{count(number)} {name}{'' if number == 1 else 's'}"


def _summary(services: Sequence[tuple[str, Facts]], hosts: Sequence[Facts]) -> Markup:
    freed = sum(sum(one["freed"].values()) for _host, one in services)
    faults = sum(len(one["faults"]) for _host, one in services)
    tried = [one["drill"] for _host, one in services if one["drill"] is not None]
    return facts(
        [
            ("Hosts looked at", f"{sum(1 for host in hosts if not host['unreachable'])} of {len(hosts)}"),
            ("Dumps", count(sum(one["dumps_in_all"] for _host, one in services))),
            ("On disk", size(sum(one["bytes_on_disk"] for _host, one in services))),
            ("Freed by this run", size(freed)),
            ("Faults", count(faults)),
            ("Good drills", f"{sum(tried)} of {len(tried)}" if tried else "none tried"),
        ]
    )


def _wrong(report: Facts) -> Markup:
    """Return all that is wrong, of all hosts, one after the other."""
    rows: list[tuple[Child, ...]] = []
    for host in report["hosts"]:
        if host["unreachable"]:
            rows.append((host["host"], "–", "could not be looked at", host["unreachable"]))
        for one in host["services"]:
            rows += [(host["host"], one["name"], fault["path"] or "a dump", fault["why"] or "") for fault in one["faults"]]
            rows += [(host["host"], one["name"], f"{failure['step']} failed", failure["why"]) for failure in one["failures"]]
    if not rows:
        return tag("p", tag("span", "Nothing is wrong." if report["hosts"] else "There are no hosts.", class_="good"))
    columns = [Column("Host"), Column("Service"), Column("What"), Column("Why, and what to do")]
    return section("What is wrong", note(tag("p", _number(len(rows), "thing")), fault=True), table("All that is wrong", columns, rows))


def _overview(services: Sequence[tuple[str, Facts]]) -> Markup | None:
    if not services:
        return None
    names = ("Dumps", "On disk", "Size by dump", "Frozen", "Dirty pages a second", "Freed in all")
    columns = [Column("Service"), Column("Newest dump"), *(Column(name, number=True) for name in names), Column("Last good drill")]
    return section("Services", table("Each service, and how its dumps are", columns, [_row(host, one) for host, one in services]))


def _row(host: str, one: Facts) -> tuple[Child, ...]:
    dumps = one["dumps"]
    newest = dumps[-1] if dumps else {}
    rates = [rate for rate in _dirty(dumps) if rate is not None]
    state = tag("span", " not good", class_="bad") if one["drill"] is False else None
    return (
        join(one["name"], tag("span", f" on {host}", class_="soft")),
        _when(newest.get("created")),
        count(one["dumps_in_all"]),
        size(one["bytes_on_disk"]),
        plots.spark(f"Size of the dumps of {one['name']}", [dump["bytes_on_disk"] or 0 for dump in dumps]),
        _frozen(newest.get("frozen_time")),
        count(rates[-1]) if rates else "–",
        size(sum(one["freed_in_all"].values())),
        join(_when(one["last_good_drill"]), state),
    )


def _sizes(services: Sequence[tuple[str, Facts]]) -> Markup | None:
    largest = sorted(services, key=lambda pair: -pair[1]["bytes_on_disk"])[:_LARGEST]
    if not largest:
        return None
    spans = [plots.Span(f"{one['name'][:30]} on {host[:20]}", 0, one["bytes_on_disk"]) for host, one in largest]
    return section("Room on disk", tag("figure", plots.spans("The largest services", "Bytes on disk of all their dumps", spans, size, 2)))


def _each(services: Sequence[tuple[str, Facts]]) -> Markup | None:
    shown = [tag("details", tag("summary", f"{one['name']} on {host}"), _course(one)) for host, one in services if one["dumps"]]
    return section("The newest chain of each service", *shown) if shown else None


def _course(one: Facts) -> Markup:
    """Return how the dumps of a service have become what they are."""
    dumps = one["dumps"]
    named = f" of {one['name']}"
    shown = list(enumerate(zip(dumps, _dirty(dumps)), 1))[-_SHOWN:]
    sizes = [(str(number), float(dump["bytes_on_disk"] or 0)) for number, (dump, _rate) in shown]
    frozen = [(str(number), float(dump["frozen_time"] or 0)) for number, (dump, _rate) in shown]
    rates = [(str(number), rate or 0) for number, (_dump, rate) in shown]
    figures = [
        tag("figure", tag("figcaption", "On disk, by dump"), plots.bars(f"Sizes{named}", "Bytes on disk, by dump", sizes, size, 2)),
        tag("figure", tag("figcaption", "Frozen, by dump"), plots.bars(f"Frozen times{named}", "By dump", frozen, duration)),
        tag("figure", tag("figcaption", "Dirty pages a second"), plots.bars(f"Dirty rates{named}", "Since the dump before", rates, count)),
    ]
    columns = [Column("Dump"), Column("Taken"), Column("Restorable")]
    columns += [Column(name, number=True) for name in ("On disk", "Pages written", "Frozen", "Dirty pages a second")]
    rows = [
        (
            str(dump["path"] or "").rsplit("/", 1)[-1] or "–",
            _when(dump["created"]),
            "yes" if dump["restorable"] else "no",
            size(dump["bytes_on_disk"] or 0),
            "–" if dump["pages_written"] is None else count(dump["pages_written"]),
            _frozen(dump["frozen_time"]),
            "–" if rate is None else count(rate),
        )
        for _number, (dump, rate) in reversed(shown)
    ]
    caption = "The dumps, newest first" if len(shown) == len(dumps) else f"The newest {_SHOWN} of {len(dumps)} dumps; the JSON has all"
    freed = ", ".join(f"{size(one['freed'][step])} by {step}" for step in _STEPS)
    return join(
        tag("p", f"In {one['images_root']}. This run has freed {freed}.", class_="soft"),
        tag("div", *figures, class_="pair"),
        table(caption, columns, rows),
    )


def _dirty(dumps: Sequence[Facts]) -> list[float | None]:
    """Return for each of DUMPS how many pages a second were written to since the one before; None where that is not known."""
    rates: list[float | None] = []
    for before, dump in zip([None, *dumps], dumps):
        begin, end = seconds(before["created"]) if before else None, seconds(dump["created"])
        known = begin is not None and end is not None and end > begin and dump["pages_written"] is not None
        rates.append(dump["pages_written"] / (end - begin) if known else None)  # type: ignore[operator]
    return rates


def _when(moment: object) -> str:
    found = seconds(moment) if moment else None
    return "never" if found is None else datetime.fromtimestamp(found, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _frozen(value: float | None) -> str:
    return "–" if value is None else duration(value)
