# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every form in which CRIU's command line takes an option."""

from __future__ import annotations

import pytest
from _engine.cli.option import FLAG, HARMLESS, OPTIONAL, REFUSED, SUPPORTED, VALUE, Option
from _engine.cli.option_table import OPTIONS
from _engine.cli.settings import NO_LIMIT, Settings, read_settings
from _engine.cli.usage import help_text
from _engine.errors import UsageError

# long_opts of CRIU 4.2 (criu/config.c), the twins of BOOL_OPT marked with *
_LIST = """
tree leave-stopped leave-running restore-detached* restore-sibling* daemon* images-dir work-dir log-file join-ns root ext-unix-sk
help tcp-established* close log-pid* version evasive-devices* pidfile veth-pair action-script link-remap* shell-job* file-locks*
page-server* address port prev-images-dir ms track-mem* auto-dedup* libdir cpu-cap force-irmap* ext-mount-map exec-cmd manage-cgroups
cgroup-root inherit-fd feature skip-mnt enable-fs enable-external-sharing enable-external-masters freeze-cgroup ghost-limit
irmap-scan-path lsm-profile timeout external empty-ns lazy-pages extra* experimental* all cgroup-props cgroup-props-file
cgroup-dump-controller skip-in-flight* deprecated* display-stats* weak-sysctls* status-fd tcp-close* verbosity ps-socket stream*
config no-default-config tls-cacert tls-cacrl tls-cert tls-key tls* tls-no-cn-verify cgroup-yard pre-dump-mode file-validation
skip-file-rwx-check* lsm-mount-context network-lock mntns-compat-mode* unprivileged* ghost-fiemap* allow-uprobes*
"""
CRIU_OPTIONS = _LIST.split()
CRIU_SHORT = {"d", "S", "s", "R", "t", "h", "D", "o", "v", "x", "V", "r", "j", "J", "l", "W", "L", "M"}
CRIU_OPTIONAL = {"ext-unix-sk", "cpu-cap", "manage-cgroups", "verbosity"}
BY_NAME = {option.name: option for option in OPTIONS}


def settings(*arguments: str, **environment: str) -> Settings:
    return read_settings(arguments, environment)


def sample(option: Option) -> str:
    """A value that OPTION takes."""
    return option.choices[0] if option.choices else "1"


@pytest.mark.parametrize("name", CRIU_OPTIONS)
def test_each_option_of_criu_has_a_row(name: str) -> None:
    option = BY_NAME[name.rstrip("*")]
    assert option.twin == name.endswith("*")
    assert (option.kind == OPTIONAL) == (option.name in CRIU_OPTIONAL)


def test_the_short_options_are_those_of_criu() -> None:
    assert {option.short for option in OPTIONS if option.short} == CRIU_SHORT


def test_what_is_not_criu_s_is_marked_ours() -> None:
    assert {option.name for option in OPTIONS if option.ours} == set(BY_NAME) - {name.rstrip("*") for name in CRIU_OPTIONS}


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.effect == REFUSED], ids=lambda option: option.name)
def test_an_unsupported_option_is_refused_by_name(option: Option) -> None:
    value = [] if option.kind == FLAG else [sample(option)]
    with pytest.raises(UsageError, match=f"--{option.name} is not supported yet: .+; leave it out"):
        settings("dump", f"--{option.name}", *value)
    if option.twin:
        assert settings("dump", f"--no-{option.name}") == settings("dump")


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.effect == HARMLESS], ids=lambda option: option.name)
def test_a_harmless_option_changes_nothing(option: Option) -> None:
    value = [sample(option)] if option.kind == VALUE else []
    assert settings("dump", f"--{option.name}", *value, "-t", "5") == settings("dump", "-t", "5")
    if option.choices:
        with pytest.raises(UsageError, match=f"--{option.name} takes one of {option.choices[0]}"):
            settings("dump", f"--{option.name}=nonsense")


# --config and --help are acted on before the other options are looked at
EFFECTIVE = [option for option in OPTIONS if option.effect == SUPPORTED and option.name not in ("config", "help")]


@pytest.mark.parametrize("option", EFFECTIVE, ids=lambda option: option.name)
def test_a_supported_option_changes_something(option: Option) -> None:
    value = {"manage-cgroups": "none", "file-validation": "filesize"}.get(option.name) or (option.choices[-1] if option.choices else "3")
    word = f"--{option.name}" if option.kind == FLAG or option.name == "ext-unix-sk" else f"--{option.name}={value}"
    assert settings("dump", word) != settings("dump")
    if option.twin:
        assert settings("dump", word, f"--no-{option.name}") == settings("dump")


@pytest.mark.parametrize(
    "arguments",
    [
        ("dump", "--tree", "5", "--images-dir", "d"),
        ("dump", "--tree=5", "--images-dir=d"),
        ("--tree", "5", "dump", "-D", "d"),
        ("-t", "5", "-D", "d", "dump"),
        ("-t5", "-Dd", "dump"),
        ("dump", "--tre", "5", "--im", "d"),
        ("-t", "5", "-D", "d", "--", "dump"),
    ],
)
def test_a_value_may_be_given_in_many_ways(arguments: tuple[str, ...]) -> None:
    assert settings(*arguments) == Settings(operands=("dump",), tree=5, images_dir="d")


def test_short_flags_may_stand_in_one_word() -> None:
    given = settings("restore", "-djlv4")
    assert (given.restore_detached, given.shell_job, given.file_locks, given.verbosity) == (True, True, True, 4)


def test_what_stands_behind_the_double_dash_is_no_option() -> None:
    assert settings("restore", "--exec-cmd", "--", "sh", "-c", "--tree").operands == ("restore", "sh", "-c", "--tree")


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (("-v",), 3),
        (("-vv",), 4),
        (("-vvvv",), 6),
        (("-v", "-v"), 4),
        (("-v0",), 0),
        (("-v4",), 4),
        (("--verbosity",), 3),
        (("--verbosity=4",), 4),
        (("--verb=1",), 1),
        (("-verbosity=0",), 0),
        ((), 2),
    ],
)
def test_verbosity_is_counted_as_criu_counts(words: tuple[str, ...], level: int) -> None:
    assert settings("dump", *words).verbosity == level


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("512K", 512 << 10), ("1M", 1 << 20), ("2G", 2 << 30), ("0", 0)])
def test_a_size_may_have_a_unit(text: str, size: int) -> None:
    assert settings("dump", "--ghost-limit", text).ghost_limit == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1T", "1.5M", "0x10"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--ghost-limit takes a number of bytes"):
        settings("dump", f"--ghost-limit={text}")


def test_no_timeout_is_a_very_long_one() -> None:
    assert settings("dump", "--timeout", "0").timeout == NO_LIMIT
    assert settings("dump", "--timeout", "7").timeout == 7.0


def test_of_running_and_stopped_the_last_counts() -> None:
    assert settings("dump", "-R", "-s").leave_stopped and not settings("dump", "-R", "-s").leave_running
    assert settings("dump", "-s", "-R").leave_running and not settings("dump", "-s", "-R").leave_stopped


def test_options_that_add_up() -> None:
    given = settings("dump", "--action-script", "a", "--action-script=b", "--close", "5", "--close=6", "--feature", "x", "--feature", "y")
    assert (given.action_script, given.close, given.feature) == (("a", "b"), (5, 6), ("x", "y"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dump", "--bogus"), "--bogus is unknown"),
        (("dump", "-Z"), "-Z is unknown"),
        (("dump", "--tr", "5"), "--tr is ambiguous; write one of --tree, --track-mem"),
        (("dump", "-t"), "-t needs a value"),
        (("dump", "--tree"), "--tree needs a value"),
        (("dump", "--track-mem=yes"), "--track-mem takes no value"),
        (("dump", "--no-track-mem=yes"), "--no-track-mem takes no value"),
        (("dump", "-t", "abc"), "--tree takes a whole number, not 'abc'"),
        (("dump", "-t", "0"), "--tree takes the PID of a process"),
        (("dump", "-t", "-5"), "--tree takes a whole number"),
        (("dump", "--no-tree"), "--no-tree is unknown"),
        (("dump", "--tracker", "magic"), "--tracker takes one of auto, uffd_wp, soft_dirty, compare"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(*arguments)


@pytest.mark.parametrize(("word", "value", "field"), [("--track", None, "track_mem"), ("--forc", None, ""), ("--freeze-", "x", "")])
def test_our_own_options_make_no_abbreviation_of_criu_s_ambiguous(word: str, value: str | None, field: str) -> None:
    if field:
        assert getattr(settings("dump", word), field)
    elif word == "--forc":
        assert settings("dump", word) == settings("dump")  # --force-irmap, which is harmless
    else:
        with pytest.raises(UsageError, match="--freeze-cgroup is not supported yet"):
            settings("dump", word, str(value))
    assert settings("dump", "--freeze", "hold", "--force", "--tracker", "compare").force


def test_the_version_is_told_whatever_comes_after_it() -> None:
    assert settings("--version", "--bogus").version
    with pytest.raises(UsageError, match="--bogus"):
        settings("--bogus", "--version")


def test_the_help_names_every_option() -> None:
    words = help_text().replace("[=", " ").split()
    assert [option.name for option in OPTIONS if f"--{option.name}" not in words] == []
    assert max(map(len, help_text().splitlines())) <= 100
