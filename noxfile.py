# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's checks. `make lint`, `make test` and `make docs` call them; `nox --list` lists them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
CACHE = ROOT / ".cache"
COLLECTION = Path("ansible_collections/stillframe/checkpoint")

CORES = ["2.17", ""]
"""ansible-core: the oldest that is supported, and the newest that this Python takes."""
PYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13"]
"""What managed hosts may have."""
PROTOBUFS = ["==3.20.3", ""]
GET_PIP_VERSIONS = ["23_1_2", "24_2", "25_2"]
"""The copies of get-pip.py that ansible-core 2.17, 2.18 and 2.19, 2.20 and 2.21 look for."""

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "sanity"]


def collection_tree(name: str) -> Path:
    """Copy the checkout, without what git ignores, to where Ansible's tools want a collection; return the search path."""
    tree = CACHE / "tree" / name
    shutil.rmtree(tree, ignore_errors=True)
    listing = subprocess.check_output(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for path in filter(None, listing.split("\0")):
        if (ROOT / path).exists():
            target = tree / COLLECTION / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, target, follow_symlinks=False)
    # ansible-test asks git for the files; the repository around the copy would tell it that all of them are ignored.
    subprocess.check_call(["git", "init", "--quiet", tree / COLLECTION])
    return tree


def real_pythons() -> list[str]:
    """Return the folders of the Pythons that run: a version manager's shims stand for ones that may not."""
    folders = {str(Path(sys.base_prefix) / "bin"): None}
    managed = Path.home() / ".pyenv" / "versions"
    for version in PYTHONS:
        for program in [*managed.glob(f"{version}.*/bin/python{version}"), *map(Path, filter(None, [shutil.which(f"python{version}")]))]:
            if "shims" not in program.parts:
                folders[str(program.parent)] = None
    return list(folders)


def search_path(session: nox.Session) -> str:
    """Return a PATH of the session's programs, Pythons that run, and the system's."""
    return os.pathsep.join([*session.bin_paths, *real_pythons(), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"])


os.environ["PATH"] = os.pathsep.join([*real_pythons(), os.environ["PATH"]])


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, playbooks, documentation, changelog and licences."""
    # mypy 2 knows no Python 3.9.
    checkers = ["ruff", "mypy<2", "types-protobuf", "ansible-lint", "antsibull-docs", "antsibull-changelog", "reuse"]
    session.install("ansible-core", "-r", "requirements.txt", *checkers, silent=True)
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("reuse", "lint", "--quiet")
    session.run("antsibull-changelog", "lint")
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(collection_tree("lint")), "PATH": search_path(session)}
    session.run("ansible-lint", "--offline", "--profile", "production", env=environment)
    references = ["--validate-collection-refs", "all", "--disallow-unknown-collection-refs"]
    session.run("antsibull-docs", "lint-collection-docs", "--plugin-docs", *references, ".", env=environment)


@nox.session
@nox.parametrize("core", CORES, ids=[core or "newest" for core in CORES])
def sanity(session: nox.Session, core: str) -> None:
    """Run all of ansible-test's sanity tests."""
    session.install(f"ansible-core=={core}.*" if core else "ansible-core", silent=True)
    home = CACHE / "home"
    stand_ins = home / ".ansible/test/cache"
    stand_ins.mkdir(parents=True, exist_ok=True)
    for version in GET_PIP_VERSIONS:
        shutil.copy(ROOT / ".ci/get_pip.py", stand_ins / f"get_pip_{version}.py")
    tree = collection_tree(f"sanity-{core or 'newest'}")
    session.chdir(tree / COLLECTION)
    session.run("ansible-test", "sanity", "--color", "no", *session.posargs, env={"HOME": str(home), "PATH": search_path(session)})


@nox.session(python=PYTHONS)
@nox.parametrize("protobuf", PROTOBUFS, ids=["oldest", "newest"])
def unit(session: nox.Session, protobuf: str) -> None:
    """Run the unit tests with each Python and protobuf that managed hosts may have."""
    session.install("pytest", "python-ptrace==0.9.9", "xxhash", "zstandard", f"protobuf{protobuf}", silent=True)
    session.run("python", "-m", "pytest", "tests/unit", *session.posargs)


@nox.session
def molecule(session: nox.Session) -> None:
    """Run the scenarios of extensions/molecule on hosts made of namespaces (root, openssh-server, redis-server)."""
    session.install("ansible-core", "molecule", silent=True)
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(collection_tree("molecule")), "PATH": search_path(session), "NO_COLOR": "1"}
    session.run("molecule", "test", "--all", *session.posargs, env=environment)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as HTML."""
    session.install("ansible-core", "antsibull-docs", "sphinx", "sphinx-ansible-theme", silent=True)
    site = CACHE / "docs"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(mode=0o755, parents=True)
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(collection_tree("docs")), "PATH": search_path(session)}
    options = ["--use-current", "--squash-hierarchy", "--dest-dir", str(site)]
    session.run("antsibull-docs", "sphinx-init", *options, "stillframe.checkpoint", env=environment, silent=True)
    shutil.copy(ROOT / "docs/preview/conf.py", site)
    session.chdir(site)
    session.run("./build.sh", env=environment, external=True, silent=True)
    session.log(f"the documentation is in {site}/build/html/index.html")
