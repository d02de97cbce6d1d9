# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""An archive holds a chain as it is, is read by the programs of its formats, and no byte of it can change unnoticed."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import pytest
from killed import in_memory, killed_before
from made_dumps import Made, Maker

from _engine.archives import sealing
from _engine.dedup import dedup
from _engine.errors import ChainError, EngineError, ImagesError, UsageError
from _engine.export_chain import export_chain
from _engine.images.manifest import PRE_DUMP
from _engine.images.pagemap import PAGE_SIZE
from _engine.import_chain import import_chain

NAME = "pagemap-100"
needs_zstd = pytest.mark.skipif(not sealing.has_zstd(), reason="no python zstandard here")
needs_age = pytest.mark.skipif(not sealing.has_age(), reason="no pyrage here")
FORMS = ["plain", pytest.param("zstd", marks=needs_zstd), pytest.param("age", marks=[needs_zstd, needs_age])]


@pytest.fixture
def two(make_dump: Maker) -> List[Made]:
    first = make_dump("1", {NAME: {page: page + 1 for page in range(40)}, "pagemap-101": {0: 9}}, kind=PRE_DUMP)
    second = make_dump("2", {NAME: {page: "parent" if page % 4 else 99 for page in range(40)}}, first, kind=PRE_DUMP)
    dedup(second.path)
    return [first, second]


def keys(tmp_path: Path) -> Tuple[str, str]:
    """Return a file with a public key, and one with the private key."""
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    public, private = tmp_path / "public", tmp_path / "private"
    public.write_text(f"# of the backups\n{identity.to_public()}\n")
    private.touch(0o600)
    private.write_text(f"# created: today\n{identity}\n")
    return str(public), str(private)


def exported(two: List[Made], tmp_path: Path, form: str) -> Tuple[str, str]:
    """Return the path of an archive of TWO, and that of the key that it needs."""
    archive = str(tmp_path / f"archive.{form}")
    public, private = keys(tmp_path) if form == "age" else ("", "")
    export_chain(two[1].path, archive, compress=form != "plain", recipients_file=public)
    return archive, private


def content(folder: str) -> Dict[str, object]:
    """Return all that is below FOLDER: files as bytes and disk use, links as their targets."""
    paths = list(Path(folder).glob("[12]/*"))
    told = {path: os.readlink(path) if path.is_symlink() else (path.read_bytes(), path.stat().st_blocks) for path in paths}
    return {str(path.relative_to(folder)): what for path, what in told.items()}


@pytest.mark.parametrize("form", FORMS)
def test_what_comes_out_is_what_went_in(two: List[Made], tmp_path: Path, form: str) -> None:
    before = content(str(tmp_path))
    archive, private = exported(two, tmp_path, form)
    assert os.stat(archive).st_mode & 0o777 == 0o600 and content(str(tmp_path)) == before
    result = import_chain(archive, str(tmp_path / "new"), private, check=True)
    assert not os.path.exists(tmp_path / "new")
    assert import_chain(archive, str(tmp_path / "new"), private) == result
    assert content(str(tmp_path / "new")) == before, "holes are holes, links lead beside"
    assert result.dumps == (str(tmp_path / "new" / "2"), str(tmp_path / "new" / "1"))
    assert {os.stat(path).st_mode & 0o777 for path in (tmp_path / "new", *result.dumps)} == {0o700}
    times = [os.stat(tmp_path / folder / "1" / "inventory.img").st_mtime_ns // 10**9 for folder in ("", "new")]
    assert times[0] == times[1]


def test_other_programs_read_it(two: List[Made], tmp_path: Path) -> None:
    archive, _private = exported(two, tmp_path, "plain")
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", str(folder)], check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert (folder / "1" / "pages-1.img").read_bytes() == Path(two[0].pages_file()).read_bytes()
    assert (folder / "1" / "pages-1.img").stat().st_blocks < 40 * PAGE_SIZE // 512


@pytest.mark.parametrize("form", FORMS)
def test_every_flipped_bit_is_found_or_changes_nothing(two: List[Made], tmp_path: Path, form: str) -> None:
    archive, private = exported(two, tmp_path, form)
    expected = import_chain(archive, str(tmp_path / "new"), private, check=True)
    whole = Path(archive).read_bytes()
    dice = random.Random(7)
    unnoticed = 0
    anywhere = (dice.randrange(len(whole)) for _one in range(250))
    for place in sorted({*range(0, 1200, 7), *range(len(whole) - 2100, len(whole), 13), *anywhere}):
        Path(archive).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :])
        try:
            assert import_chain(archive, str(tmp_path / "new"), private, check=True) == expected
            unnoticed += 1
        except EngineError as error:
            assert archive in str(error)
    assert unnoticed <= (8 if form == "zstd" else 0), "there are bits in a zstd frame that mean nothing"
    for size in (0, 1, 300, len(whole) // 2, len(whole) - 5):  # the last four bytes of a zstd frame are its own checksum
        Path(archive).write_bytes(whole[:size])
        with pytest.raises(ChainError, match="is damaged, or no archive of dumps"):
            import_chain(archive, str(tmp_path / "new"), private)
    assert not os.path.exists(tmp_path / "new") and not list(tmp_path.glob(".new*"))


def hostile(make: Callable[[tarfile.TarInfo], None], name: str, whole: bytes) -> bytes:
    """Return the archive WHOLE with a member NAME, made by MAKE, behind its index."""
    member = tarfile.TarInfo(name)
    make(member)
    data = bytes(-(-member.size // 512) * 512)
    at = whole.index(b"stillframe-archive.json") + 512
    at += -(-int(whole[at - 512 + 124 : at - 512 + 135], 8) // 512) * 512
    return whole[:at] + member.tobuf(tarfile.GNU_FORMAT) + data + whole[at:]


@pytest.mark.parametrize("name", ["../evil.img", "/etc/evil.img", "1/../evil.img", "1/parent", "3/evil.img", "1/evil", "1//evil.img"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_what_does_not_belong_is_refused(two: List[Made], tmp_path: Path, name: str, kind: bytes) -> None:
    def make(member: tarfile.TarInfo) -> None:
        member.type, member.mode, member.linkname = kind, 0o600, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""

    archive, _private = exported(two, tmp_path, "plain")
    Path(archive).write_bytes(hostile(make, name, Path(archive).read_bytes()))
    with pytest.raises(ChainError, match="is damaged, or no archive of dumps"):
        import_chain(archive, str(tmp_path / "new"))
    assert not os.path.exists(tmp_path / "new") and not list(tmp_path.glob("**/evil*"))


def test_nothing_is_ever_overwritten(two: List[Made], tmp_path: Path) -> None:
    archive, _private = exported(two, tmp_path, "plain")
    before = content(str(tmp_path))
    with pytest.raises(ImagesError, match="is there already"):
        export_chain(two[1].path, archive)
    with pytest.raises(ImagesError, match="is there already"):
        import_chain(archive, two[0].path)
    with pytest.raises(ImagesError, match="is no directory; make it first"):
        import_chain(archive, str(tmp_path / "a" / "b"))
    assert content(str(tmp_path)) == before


def test_a_damaged_chain_is_not_exported(two: List[Made], tmp_path: Path) -> None:
    with open(two[0].pages_file(), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 5 * PAGE_SIZE)
    with pytest.raises(ChainError, match="pages-1.img is damaged between .*nothing was exported"):
        export_chain(two[1].path, str(tmp_path / "archive"))
    assert not list(tmp_path.glob("archive*"))


@needs_age
@needs_zstd
def test_keys(two: List[Made], tmp_path: Path) -> None:
    archive, private = exported(two, tmp_path, "age")
    with pytest.raises(UsageError, match="is encrypted; give the file with its key as identity_file"):
        import_chain(archive, str(tmp_path / "new"))
    (tmp_path / "other").mkdir()
    with pytest.raises(ChainError, match="cannot be decrypted"):
        import_chain(archive, str(tmp_path / "new"), keys(tmp_path / "other")[1])
    os.chmod(private, 0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        import_chain(archive, str(tmp_path / "new"), private)
    secret = Path(private).read_text().splitlines()[1][:-1]
    (tmp_path / "bad").write_text(secret)
    with pytest.raises(UsageError, match="line 1 is no key of age") as told:
        export_chain(two[1].path, str(tmp_path / "more"), recipients_file=str(tmp_path / "bad"))
    assert secret not in str(told.value)
    (tmp_path / "bad").write_text("# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        export_chain(two[1].path, str(tmp_path / "more"), recipients_file=str(tmp_path / "bad"))


def test_killed_at_every_step(two: List[Made], tmp_path: Path) -> None:
    """There is no archive, or a whole one; no directory, or a whole one; and the next run ends it."""

    def read(folder: str) -> Dict[str, object]:
        return {name: what[0] if isinstance(what, tuple) else what for name, what in content(folder).items()}

    with in_memory(two) as folder:
        archive, root = os.path.join(folder, "archive"), os.path.join(folder, "new")
        expected = read(folder)
        for work, made in (
            (lambda: export_chain(os.path.join(folder, "2"), archive), archive),
            (lambda: import_chain(archive, root), root),
        ):
            step = 0
            while killed_before(step, work):
                if os.path.lexists(made):
                    assert import_chain(archive, os.path.join(folder, "again")).dumps
                    assert read(os.path.join(folder, "again")) == expected
                    shutil.rmtree(os.path.join(folder, "again"))
                    shutil.rmtree(made) if os.path.isdir(made) else os.unlink(made)
                assert read(folder) == expected
                step += 3
            assert os.path.lexists(made) and step > 10
        assert read(root) == expected


def test_a_stream_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(io.BytesIO(os.urandom(5000)).read())
    with pytest.raises(ChainError, match="is damaged, or no archive of dumps"):
        import_chain(str(tmp_path / "archive"), str(tmp_path / "new"))
