# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the dumps of a host are, as metrics in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .fleet import seconds

Facts = Mapping[str, Any]


class _Metric(NamedTuple):
    name: str
    kind: str
    help: str


_FINISHED = _Metric("stillframe_maintained_timestamp_seconds", "gauge", "When the dumps of this host were last looked after.")
_METRICS = (
    _Metric("stillframe_last_dump_timestamp_seconds", "gauge", "When the newest dump of the service was taken."),
    _Metric("stillframe_last_dump_frozen_seconds", "gauge", "How long the service stood still for its newest dump."),
    _Metric("stillframe_chain_dumps", "gauge", "Dumps in the chain of the newest dump."),
    _Metric("stillframe_dumps", "gauge", "Dumps of the service that were found."),
    _Metric("stillframe_disk_bytes", "gauge", "Room that the dumps of the newest chain take on disk."),
    _Metric("stillframe_faults", "gauge", "Faults that were found in the dumps of the service."),
    _Metric("stillframe_failed_steps", "gauge", "Steps of the last run that failed for the service."),
    _Metric("stillframe_drill_good", "gauge", "Whether the drill of the last run was good; not there when none was tried."),
    _Metric("stillframe_last_good_drill_timestamp_seconds", "gauge", "When a drill of the service was good last; not there when none was."),
    _Metric("stillframe_freed_bytes_total", "counter", "Room on disk that was given back by dedup, squash and prune."),
)


def fleet_metrics(report: Facts, name: str) -> str:
    """Return the metrics of the host NAME in REPORT, facts as fleet_facts returns them; empty for one that could not be looked at."""
    hosts = [host for host in report["hosts"] if host["host"] == name and not host["unreachable"]]
    if not hosts:
        return ""
    samples: dict[str, list[str]] = {metric.name: [] for metric in (_FINISHED, *_METRICS)}
    for host in hosts:
        samples[_FINISHED.name] += _sample(_FINISHED.name, {}, seconds(host["finished"]))
        for service in host["services"]:
            for sampled, labels, value in _values(service):
                samples[sampled] += _sample(sampled, {"service": service["name"], **labels}, value)
    lines = []
    for metric in (_FINISHED, *_METRICS):
        if samples[metric.name]:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *samples[metric.name]]
    return "\n".join(lines) + "\n"


def _values(service: Facts) -> Iterator[tuple[str, dict[str, str], float | None]]:
    newest = service["dumps"][-1] if service["dumps"] else {}
    frozen = newest.get("frozen_time")
    yield "stillframe_last_dump_timestamp_seconds", {}, seconds(newest.get("created"))
    yield "stillframe_last_dump_frozen_seconds", {}, None if frozen is None else frozen / 1e6
    yield "stillframe_chain_dumps", {}, len(service["dumps"])
    yield "stillframe_dumps", {}, service["dumps_in_all"]
    yield "stillframe_disk_bytes", {}, service["bytes_on_disk"]
    yield "stillframe_faults", {}, len(service["faults"])
    yield "stillframe_failed_steps", {}, len(service["failures"])
    yield "stillframe_drill_good", {}, None if service["drill"] is None else int(service["drill"])
    yield "stillframe_last_good_drill_timestamp_seconds", {}, seconds(service["last_good_drill"])
    for step, freed in service["freed_in_all"].items():
        yield "stillframe_freed_bytes_total", {"by": step}, max(freed, 0)


def _sample(name: str, labels: Mapping[str, str], value: float | None) -> list[str]:
    """Return the line of a sample, none when there is no VALUE."""
    if value is None:
        return []
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return [f"{name}{{{shown}}} {value:.17g}" if shown else f"{name} {value:.17g}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
