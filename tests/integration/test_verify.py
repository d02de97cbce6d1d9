# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""verify finds every flipped bit and every file cut short in a real chain; restore refuses it, or does not read it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from _engine.dedup import dedup
from _engine.errors import EngineError, ImagesError
from _engine.images.chain import open_chain
from _engine.images.manifest import read_manifest
from _engine.options import RestoreOptions
from _engine.restore import plan
from _engine.verify import verify

from victim import Lab, become_subreaper, children

FLIPS = 1
"""In each file."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, compiled: dict[str, Path]) -> Path:
    """Return a directory with two dumps of a program that has ended."""
    become_subreaper()
    lab = Lab(tmp_path_factory.mktemp("made"), compiled, children())
    victim = lab.start("channels")
    for number, options in enumerate((["--leave-running"], []), 1):
        parent = [f"--prev-images-dir=../{number - 1}"] if number > 1 else []
        lab.dump(victim.pid, str(number), "--track-mem", *parent, *options)
    lab.reap()
    return lab.folder / "images"


@pytest.fixture
def chain(made: Path, tmp_path: Path) -> Path:
    """Return the newest of two dumps, the only chain in its directory."""
    return Path(shutil.copytree(made, tmp_path / "images", symlinks=True)) / "2"


def files_of(images: Path) -> list[Path]:
    return sorted(path for path in images.parent.glob("*/*") if path.is_file() and not path.is_symlink() and path.stat().st_size)


def memory(images: Path) -> str:
    """Return a digest of all memory that a restore of IMAGES would fill in."""
    digest = hashlib.sha256()
    chain = open_chain(str(images), verify=False)
    for name in chain.top.pagemaps():
        for extent in chain.iterate_extents(name):
            with open(extent.path, "rb") as file:
                file.seek(extent.offset)
                digest.update(f"{name} {extent.start:x}".encode() + file.read(extent.pages * 4096))
    return digest.hexdigest()


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Let the file at PATH have CONTENT for the length of the block."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def damages(path: Path, dice: random.Random) -> Iterator[bytes]:
    """Yield the content of PATH with a bit flipped, at its beginning, its end and anywhere, and cut short."""
    content = path.read_bytes()
    for place in {0, len(content) - 1, *(dice.randrange(len(content)) for _flip in range(FLIPS))}:
        yield content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]
    yield content[: dice.randrange(len(content))]


def refused(images: Path) -> bool:
    try:
        plan(RestoreOptions(str(images)))
    except ImagesError:
        return True
    return False


def test_every_damage_is_found_and_refused_or_harmless(chain: Path) -> None:
    dice = random.Random(5)
    assert verify(str(chain)).sound and verify(str(chain.parent)).sound and not refused(chain)
    expected = memory(chain)
    kinds = set()
    for path in files_of(chain):
        if path.name == "stats-dump":
            continue  # figures, which no restore reads
        kinds.add(path.name.rpartition("-")[0] or path.name)
        for content in damages(path, dice):
            with changed(path, content):
                found = verify(str(chain))
                assert not found.sound and any(fault.path == str(path) for fault in found.faults), (path, found.faults)
                assert path.parent != chain or refused(chain), path
                assert refused(chain) or memory(chain) == expected, path
    assert len(kinds) > 12, kinds
    assert verify(str(chain)).sound


def test_damage_in_what_dedup_has_left_is_found(chain: Path) -> None:
    """Whatever bit flips in a page that is left; in those that are gone there is nothing to flip, and nobody reads them."""
    dedup(str(chain))
    below = chain.parent / "1"
    manifest = read_manifest(str(below))
    assert manifest is not None and manifest.pages and verify(str(chain)).sound
    dice, expected = random.Random(8), memory(chain)
    for name, record in manifest.pages.items():
        gone = [page for low, high in record.gone for page in range(low, high)]
        kept = sorted(set(range(record.size // 4096)) - set(gone))
        for page in [*dice.sample(kept, min(len(kept), 20)), *dice.sample(gone, min(len(gone), 5))]:
            content = bytearray((below / name).read_bytes())
            content[page * 4096 + dice.randrange(4096)] ^= 1 << dice.randrange(8)
            with changed(below / name, bytes(content)):
                found = [fault.path for fault in verify(str(chain)).faults]
                assert found == ([] if page in gone else [str(below / name)])
                assert refused(chain) or memory(chain) == expected
    assert any(record.gone for record in manifest.pages.values())


def test_images_without_checksums_are_never_believed_blindly(chain: Path) -> None:
    """As CRIU's: what cannot be found is a bit of content; but nothing crashes, and what is cut short or missing is found."""
    for path in chain.parent.glob("*/stillframe.json"):
        path.unlink()
    dice = random.Random(6)
    assert verify(str(chain)).sound and not any(dump.checksums for dump in verify(str(chain)).dumps)
    for path in files_of(chain):
        for content in damages(path, dice):
            with changed(path, content):
                verify(str(chain))
                with suppress(EngineError):
                    plan(RestoreOptions(str(chain)))
        if path.parent == chain and path.name != "stats-dump":
            with changed(path, path.read_bytes()[:-1]):
                assert not verify(str(chain)).sound, path


def test_what_is_missing_is_named(chain: Path) -> None:
    for path in files_of(chain):
        if path.name in ("stats-dump", "stillframe.json"):
            continue
        aside = path.with_name("aside")
        path.rename(aside)
        assert any(path.name in fault.why for fault in verify(str(chain)).faults), path
        aside.rename(path)
    shutil.rmtree(chain.parent / "1")
    (fault,) = verify(str(chain)).faults
    assert fault.path == f"{chain.parent / '2' / 'parent'}" and "is missing" in fault.why


def test_what_is_no_file_is_not_waited_for(chain: Path) -> None:
    for path in (chain / "files.img", chain.parent / "1" / "stillframe.json"):
        path.unlink()
        os.mkfifo(path)
        assert any(fault.path.endswith(path.name) for fault in verify(str(chain)).faults)
    assert refused(chain)


def test_the_command_tells_all_of_them(chain: Path, lab: Lab) -> None:
    assert "0 faults" in lab.engine("verify", "--images-dir", chain).stdout
    pages = chain.parent / "1" / "pages-1.img"
    content = bytearray(pages.read_bytes())
    content[0] ^= 1
    content[-1] ^= 1
    pages.write_bytes(content)
    (chain / "files.img").write_bytes(b"")
    done = lab.engine("verify", "--images-dir", chain.parent)
    assert done.returncode == 1
    assert "pages-1.img is damaged between offsets 0 and" in done.stderr and "files.img is truncated at offset 0" in done.stderr
