# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases of tests/lab/inside, each in a virtual machine with the kernel of a Debian release.

A machine is started once a release, both at the same time, and runs all cases. Making their images (tests/lab/vm) takes
a minute each, once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "interop"))
from kinds import OUR_CHAIN, THEIR_CHAIN

LAB = Path(__file__).parent
SUITES = ("trixie", "bookworm")
"""Linux 6.12, which has soft-dirty bits and PAGEMAP_SCAN; Linux 6.1, which has soft-dirty bits alone."""
FILES = ("trackers", "criu_chains", "memory_chains", "other_state")
PATHS = {file: LAB / "inside" / f"{file}.py" for file in FILES}
CASES = [(file, case) for file, path in PATHS.items() for case in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)]
REPORT = "<!-- report -->"
PAGES = ("private memory", "copied pages of files")
"""What tests/programs/pages.c holds."""
MEMORY = ("shared anonymous", "memfd", "sealed memfd")
"""What shared_memory.c holds."""
PROGRAMS = ("pages", "shared_memory", "channels", "sockets", "signals", "identity")
PLACES = {
    "test_we_restore_each_dump_of_a_chain_of_criu": (PAGES, THEIR_CHAIN),
    "test_criu_restores_each_dump_of_our_chain": (PAGES, OUR_CHAIN),
    "test_we_restore_each_dump_of_memory_by_criu": (MEMORY, THEIR_CHAIN),
    "test_criu_restores_each_dump_of_memory_by_us": (MEMORY, OUR_CHAIN),
}
COMMAND = f"""
cd tests/lab/inside
export PYTHONPATH=$OLDPWD/plugins/module_utils
python3 -m pytest -q -p no:cacheprovider --color=no --tb=short --junitxml=/tmp/report.xml {" ".join(path.name for path in PATHS.values())}
status=$?
echo "{REPORT}"
cat /tmp/report.xml
exit $status
"""
NEEDED = ("qemu-system-x86_64", "mmdebstrap", "mke2fs", "cc")
missing = [program for program in NEEDED if not shutil.which(program)]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making the image of a virtual machine needs root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the virtual machines of tests/lab are x86-64"),
    pytest.mark.skipif(bool(missing), reason=f"for a virtual machine {', '.join(missing)} are missing (see tests/lab/vm)"),
]


def start(suite: str, *command: str, **environment: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([str(LAB / "vm"), suite, *command], env={**os.environ, **environment}, text=True, **pipes)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, subprocess.Popen[str]]]:
    """Yield the machines that run, by suite."""
    files = tmp_path_factory.mktemp("files")
    for program in PROGRAMS:
        source = LAB.parent / "programs" / f"{program}.c"
        subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", str(files / program), str(source)], check=True)
    makers = {suite: start(suite) for suite in SUITES}
    told = {suite: maker.communicate()[0] for suite, maker in makers.items()}
    for suite, maker in makers.items():
        if maker.returncode:
            pytest.skip(f"no image of Debian {suite} could be made: {told[suite].strip()[-500:]}")
    started = {suite: start(suite, COMMAND, STILLFRAME_VM_FILES=str(files)) for suite in SUITES}
    try:
        yield started
    finally:
        for machine in started.values():
            machine.terminate()
            machine.wait()


@pytest.fixture(scope="module", params=SUITES)
def report(request: pytest.FixtureRequest, machines: Mapping[str, subprocess.Popen[str]]) -> Mapping[str, ElementTree.Element]:
    """What became of each case in the machine of one suite, by "file::case[parameter]"."""
    output, _errors = machines[request.param].communicate()
    text, _mark, xml = output.partition(REPORT)
    assert xml, f"the machine of {request.param} gave no report:\n{text[-4000:]}"
    cases = ElementTree.fromstring(xml.strip()).iter("testcase")
    found = {f"{case.attrib['classname'].rsplit('.', 1)[-1]}::{case.attrib['name']}": case for case in cases}
    assert {name.split("[")[0] for name in found} == {f"{file}::{case}" for file, case in CASES}, text[-4000:]
    return found


def marked(file: str, case: str) -> object:
    """Return CASE of FILE as parameters, with its place in the table of tests/interop."""
    kinds, direction = PLACES.get(case, ((), ""))
    marks = [pytest.mark.kind(*kinds), pytest.mark.direction(direction)] if kinds else []
    return pytest.param(file, case, id=case, marks=marks)


@pytest.mark.parametrize(("file", "case"), [marked(*names) for names in CASES])
def test_in_a_virtual_machine(report: Mapping[str, ElementTree.Element], file: str, case: str) -> None:
    found = {name: element for name, element in report.items() if name.split("[")[0] == f"{file}::{case}"}
    faults = [f"{name}:\n{fault.text}" for name, element in found.items() for kind in ("failure", "error") for fault in element.iter(kind)]
    assert not faults, "\n".join(faults)
    skipped = [skip.attrib["message"] for element in found.values() for skip in element.iter("skipped")]
    if len(skipped) == len(found):
        pytest.skip(skipped[0])
