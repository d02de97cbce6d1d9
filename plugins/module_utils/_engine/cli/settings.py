# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command line asks for, as values: the options given, checked and converted."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable
from collections.abc import Mapping, Sequence

from ..errors import UsageError
from .config_file import read_config
from .getopt_long import parse
from .option import HARMLESS, OPTIONAL, REFUSED, Given, Option
from .option_table import OPTIONS

if TYPE_CHECKING:
    from ..transfer.tls import TlsOptions

DEFAULT_VERBOSITY = 2
"""CRIU's DEFAULT_LOGLEVEL: errors and warnings."""
NO_LIMIT = 86400.0
"""Seconds that stand for no limit, `--timeout 0` in CRIU: a day."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Settings:
    """A command line. Paths are as given; None and empty mean that the option was not given."""

    operands: tuple[str, ...] = ()
    """The verb, and what follows it."""
    tree: int = 0
    pid_file: str | None = None
    name: str | None = None
    systemd_unit: str | None = None
    cgroup: str | None = None
    images_dir: str = "."
    work_dir: str | None = None
    prev_images_dir: str | None = None
    leave_running: bool = False
    leave_stopped: bool = False
    restore_detached: bool = False
    restore_sibling: bool = False
    exec_cmd: bool = False
    pidfile: str | None = None
    status_fd: int | None = None
    close: tuple[int, ...] = ()
    action_script: tuple[str, ...] = ()
    """In the order given."""
    timeout: float = 10.0
    force: bool = False
    track_mem: bool = False
    auto_dedup: bool = False
    keep_parents: bool = False
    keep_restorable: bool = False
    full_every: int = 0
    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_within: str = ""
    dry_run: bool = False
    archive: str = ""
    """Absolute, as are the two that follow."""
    recipients_file: str = ""
    identity_file: str = ""
    tracker: str = "auto"
    freeze: str = "auto"
    page_server: bool = False
    address: str = "127.0.0.1"
    port: int = 0
    ps_socket: int = -1
    tls: bool = False
    tls_cacert: str = ""
    tls_cacrl: str = ""
    tls_cert: str = "/etc/pki/criu/cert.pem"
    """CRIU's default, as is that of the key."""
    tls_key: str = "/etc/pki/criu/private/key.pem"
    tls_no_cn_verify: bool = False
    tls_peer_cert: str = ""
    tls_peer_fingerprint: str = ""
    max_downtime: float = 0.1
    max_rounds: int = 10
    bandwidth_limit: int = 0
    compress: str = "none"
    carry_files: tuple[str, ...] = ()
    accept_files: tuple[str, ...] = ()
    settle: str = ""
    shell_job: bool = False
    file_locks: bool = False
    tcp_established: bool = False
    tcp_close: bool = False
    skip_in_flight: bool = False
    ext_unix_sk: bool = False
    ghost_limit: int = 1 << 20
    link_remap: bool = False
    irmap_scan_path: tuple[str, ...] = ()
    file_validation: str = "buildid"
    files: tuple[str, ...] = ()
    restore_files: bool = False
    external: tuple[str, ...] = ()
    inherit_fd: tuple[str, ...] = ()
    manage_cgroups: str = "auto"
    cgroup_root: tuple[str, ...] = ()
    cgroup_dump_controller: tuple[str, ...] = ()
    cgroup_yard: str = ""
    feature: tuple[str, ...] = ()
    extra: bool = False
    experimental: bool = False
    log_file: str | None = None
    verbosity: int = DEFAULT_VERBOSITY
    display_stats: bool = False
    version: bool = False


def tls_options(settings: Settings) -> TlsOptions | None:
    """Return what SETTINGS say about TLS, None for none."""
    from ..transfer.tls import TlsOptions

    if not settings.tls:
        return None
    return TlsOptions(
        cert=settings.tls_cert,
        key=settings.tls_key,
        peer_cert=settings.tls_peer_cert,
        peer_fingerprint=settings.tls_peer_fingerprint,
        cacert=settings.tls_cacert,
        cacrl=settings.tls_cacrl,
        verify_name=not settings.tls_no_cn_verify,
    )


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return what ARGUMENTS ask for; options of $CRIU_CONFIG_FILE and of --config count as given before them.

    Raises UsageError for an option that is unknown, makes no sense, or is not supported.
    """
    values: dict[str, Any] = {}
    operands: list[str] = []
    for word in parse([*_configured(arguments, environment), *arguments], OPTIONS):
        if isinstance(word, str):
            operands.append(word)
            continue
        _take(word, values)
        if values.get("version"):
            break  # as in CRIU: what follows is not looked at
    return Settings(operands=tuple(operands), **values)


def _configured(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the options of the configuration files that are named, as words of a command line."""
    words: list[str] = []
    if environment.get("CRIU_CONFIG_FILE"):
        words += read_config(environment["CRIU_CONFIG_FILE"])
    for position, word in enumerate(arguments):
        if word == "--config" and position + 1 < len(arguments):
            words += read_config(arguments[position + 1])
        elif word.startswith("--config="):
            words += read_config(word.partition("=")[2])
    return words


def _take(given: Given, values: dict[str, Any]) -> None:
    """Set in VALUES what GIVEN asks for."""
    option = given.option
    if option.effect == REFUSED and not given.negated:
        raise UsageError(f"option --{option.name} is not supported yet: {option.text}; leave it out")
    if option.choices and given.value is not None and given.value not in option.choices:
        raise UsageError(f"option --{option.name} takes one of {', '.join(option.choices)}, not {given.value!r}")
    if option.effect in (REFUSED, HARMLESS):
        return
    special = _SPECIAL.get(option.name)
    if special is not None:
        special(given, values)
    elif option.kind == OPTIONAL or given.value is None:
        values[option.field] = not given.negated
    else:
        values[option.field] = _CONVERT.get(option.name, _text)(option, given.value)


def _text(option: Option, value: str) -> str:
    return value


def _path(option: Option, value: str) -> str:
    """Return VALUE as an absolute path: what the caller names is meant from where the caller is."""
    return os.path.abspath(value)


def _whole(option: Option, value: str) -> int:
    if not re.fullmatch("[0-9]+", value):
        raise UsageError(f"option --{option.name} takes a whole number, not {value!r}")
    return int(value)


def _pid(option: Option, value: str) -> int:
    pid = _whole(option, value)
    if pid == 0:
        raise UsageError(f"option --{option.name} takes the PID of a process, not {value!r}")
    return pid


def _port(option: Option, value: str) -> int:
    port = _whole(option, value)
    if port > 65535:
        raise UsageError(f"option --{option.name} takes a port, 0 to 65535, not {value!r}")
    return port


def _seconds(option: Option, value: str) -> float:
    return float(_whole(option, value)) or NO_LIMIT


def _milliseconds(option: Option, value: str) -> float:
    """Return the seconds that VALUE milliseconds are."""
    return _whole(option, value) / 1000


def _size(option: Option, value: str) -> int:
    """Return the bytes that VALUE says, like 4096, 512K, 1M or 2G."""
    match = re.fullmatch("([0-9]+)([KMG]?)", value)
    if match is None:
        raise UsageError(f"option --{option.name} takes a number of bytes such as 4096, 512K, 1M or 2G, not {value!r}")
    return int(match[1]) * _UNITS[match[2]]


def _final_state(given: Given, values: dict[str, Any]) -> None:
    """Set one of leave_running and leave_stopped, which are one setting in CRIU: the last one given counts."""
    values["leave_running"] = given.option.name == "leave-running"
    values["leave_stopped"] = not values["leave_running"]


def _verbosity(given: Given, values: dict[str, Any]) -> None:
    """Raise the level by one for each v, or set it to the number given; 0 for anything else, as atoi(3) says."""
    level = values.get("verbosity", DEFAULT_VERBOSITY)
    if given.value is None:
        values["verbosity"] = level + 1
    elif given.value.startswith("v"):
        values["verbosity"] = level + 1 + len(given.value)
    else:
        digits = re.match("[0-9]+", given.value)
        values["verbosity"] = int(digits[0]) if digits else 0


def _append(given: Given, values: dict[str, Any]) -> None:
    values[given.option.field] = (*values.get(given.option.field, ()), given.value)


def _close(given: Given, values: dict[str, Any]) -> None:
    values["close"] = (*values.get("close", ()), _whole(given.option, given.value or ""))


def _all(given: Given, values: dict[str, Any]) -> None:
    values["extra"] = values["experimental"] = True


def _ext_unix_sk(given: Given, values: dict[str, Any]) -> None:
    values["ext_unix_sk"] = True
    if given.value is not None:  # CRIU's older name for the same
        values["external"] = (*values.get("external", ()), *(f"unix[{inode}]" for inode in given.value.split(",")))


def _manage_cgroups(given: Given, values: dict[str, Any]) -> None:
    mode = given.value or "soft"  # what CRIU takes a bare --manage-cgroups for
    values["manage_cgroups"] = mode


def _ignore(given: Given, values: dict[str, Any]) -> None:
    """Do nothing: the option was acted on before."""


_CONVERT: Mapping[str, Callable[[Option, str], object]] = {
    "archive": _path,
    "recipients-file": _path,
    "identity-file": _path,
    "tree": _pid,
    "status-fd": _whole,
    "full-every": _whole,
    "keep-last": _whole,
    "keep-hourly": _whole,
    "keep-daily": _whole,
    "keep-weekly": _whole,
    "ps-socket": _whole,
    "port": _port,
    "timeout": _seconds,
    "ghost-limit": _size,
    "max-downtime": _milliseconds,
    "max-rounds": _whole,
    "bandwidth-limit": _size,
}

_SPECIAL: Mapping[str, Callable[[Given, dict[str, Any]], None]] = {
    "leave-running": _final_state,
    "leave-stopped": _final_state,
    "verbosity": _verbosity,
    "action-script": _append,
    "carry-files": _append,
    "accept-files": _append,
    "feature": _append,
    "external": _append,
    "files": _append,
    "inherit-fd": _append,
    "cgroup-root": _append,
    "cgroup-dump-controller": _append,
    "irmap-scan-path": _append,
    "close": _close,
    "all": _all,
    "ext-unix-sk": _ext_unix_sk,
    "manage-cgroups": _manage_cgroups,
    "config": _ignore,
}


def absolute(settings: Settings) -> tuple[str, str]:
    """Return the images dir and the work dir as absolute paths, links in them left as they are."""
    images_dir = os.path.abspath(settings.images_dir)
    return images_dir, os.path.abspath(settings.work_dir) if settings.work_dir else images_dir
