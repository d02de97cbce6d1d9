# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Images are written as CRIU writes them, and what is wrong in one is found, not believed."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Callable, List

import pytest

from _engine.errors import ImagesError
from _engine.images import schema
from _engine.images.image import Entry, ImagesDir
from _engine.images.magic import IMG_COMMON_MAGIC, IMG_SERVICE_MAGIC, kind_of


@pytest.fixture
def images(tmp_path: Path) -> ImagesDir:
    return ImagesDir(str(tmp_path))


def task(pid: int) -> object:
    return schema.message("pstree_entry")(pid=pid, ppid=0, pgid=pid, sid=pid, threads=[pid])


def test_layout_is_magics_then_lengths_and_messages(images: ImagesDir) -> None:
    images.write("pstree", [task(5), task(6)])
    encoded = [task(5).SerializeToString(), task(6).SerializeToString()]
    expected = struct.pack("<II", IMG_COMMON_MAGIC, 0x50273030) + b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    assert Path(images.file("pstree")).read_bytes() == expected
    assert [entry.pid for entry in images.read("pstree")] == [5, 6]


def test_exceptions_of_names_and_magics(images: ImagesDir) -> None:
    images.write("inventory", [schema.message("inventory_entry")(img_version=2)])
    images.write("stats-dump", [schema.message("stats_entry")()])
    assert Path(images.path, "inventory.img").read_bytes()[:4] == struct.pack("<I", 0x58313116)
    assert Path(images.path, "stats-dump").read_bytes()[:8] == struct.pack("<II", IMG_SERVICE_MAGIC, 0x57093306)
    Path(images.path, "pages-1.img").write_bytes(b"")
    Path(images.path, "dump.log").write_bytes(b"")
    assert images.names() == ["inventory", "stats-dump"]
    assert images.has("inventory") and not images.has("pstree")


def test_files_are_the_owners_alone_whatever_the_umask(images: ImagesDir) -> None:
    Path(images.path, "pstree.img").write_bytes(b"older")
    os.chmod(images.file("pstree"), 0o644)
    before = os.umask(0)
    try:
        images.write("pstree", [task(5)])
        images.write("files", [])
    finally:
        os.umask(before)
    assert {stat.S_IMODE(os.stat(images.file(name)).st_mode) for name in ("pstree", "files")} == {0o600}
    assert images.read("files") == []


def test_a_symbolic_link_is_not_written_through(images: ImagesDir, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"kept")
    os.symlink(precious, images.file("pstree"))
    with pytest.raises(ImagesError, match="pstree.img.*symbolic link"):
        images.write("pstree", [task(5)])
    assert precious.read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["core", "core-", "core-x", "files-1", "pages-1", "ghost-file-xyz", "../core-1", "nonsense"])
def test_names_that_criu_does_not_have(images: ImagesDir, name: str) -> None:
    with pytest.raises(ImagesError, match="is not the name of an image"):
        images.read(name)


def test_hexadecimal_ids() -> None:
    assert kind_of("ghost-file-1f").message == "ghost_file_entry"
    assert kind_of("tcp-stream-a0").message == "tcp_stream_entry"
    assert kind_of("pagemap-shmem-7").name == "pagemap-shmem"


def payloads() -> List[object]:
    def make(name: str, **fields: object) -> object:
        return schema.message(name)(**fields)

    desc = {"key": 1, "uid": 2, "gid": 3, "cuid": 4, "cgid": 5, "mode": 6, "id": 7}
    stream = {"inq_len": 2, "inq_seq": 1, "outq_len": 3, "outq_seq": 1, "opt_mask": 0, "snd_wscale": 0, "mss_clamp": 0}
    pipes = [Entry(make("pipe_data_entry", pipe_id=1, bytes=3), b"abc"), Entry(make("pipe_data_entry", pipe_id=2, bytes=0))]
    ghost = make("ghost_file_entry", uid=0, gid=0, mode=0o100600)
    chunked = make("ghost_file_entry", uid=0, gid=0, mode=0o100600, chunks=True, size=9)
    queue = make("ipc_msg_entry", desc=desc, qbytes=1, qnum=2)
    empty = make("ipc_msg_entry", desc=desc, qbytes=1, qnum=0)
    segment = make("ipc_shm_entry", desc=desc, size=9, in_pagemaps=True)
    letter = Entry(make("ipc_msg", mtype=1, msize=3), b"abc")
    return [
        ("pipes-data", pipes),
        ("fifo-data", pipes),
        ("sk-queues", [Entry(make("sk_packet_entry", id_for=1, length=4), b"wxyz"), Entry(make("sk_packet_entry", id_for=2, length=0))]),
        ("tcp-stream-2a", [Entry(make("tcp_stream_entry", **stream), b"inout")]),
        ("ghost-file-1", [Entry(ghost, b"all the rest")]),
        ("ghost-file-2", [Entry(chunked), *(Entry(make("ghost_chunk_entry", len=2, off=at), b"xy") for at in (0, 7))]),
        ("bpfmap-data", [Entry(make("bpfmap_data_entry", map_id=1, keys_bytes=1, values_bytes=2, count=1), b"kvv")] * 2),
        ("ipcns-sem-9", [Entry(make("ipc_sem_entry", desc=desc, nsems=3), b"112233")] * 2),
        ("ipcns-shm-9", [Entry(make("ipc_shm_entry", desc=desc, size=5), b"12345"), Entry(segment)]),
        ("ipcns-msg-9", [Entry(queue), letter, letter, Entry(empty), Entry(queue), letter, letter]),
    ]


@pytest.mark.parametrize(("name", "entries"), payloads(), ids=lambda value: value if isinstance(value, str) else "")
def test_raw_data_comes_back(images: ImagesDir, name: str, entries: List[Entry]) -> None:
    images.write(name, entries)
    assert images.entries(name) == entries


@pytest.mark.parametrize(("name", "entries"), payloads(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_cut_is_noticed_but_between_entries(images: ImagesDir, name: str, entries: List[Entry]) -> None:
    """Cut after any byte, an image either reads as fewer whole entries or is refused with its name and an offset."""
    images.write(name, entries)
    whole = Path(images.file(name)).read_bytes()
    refused = 0
    for length in range(len(whole)):
        Path(images.file(name)).write_bytes(whole[:length])
        try:
            found = images.entries(name)
        except ImagesError as error:
            assert images.file(name) in str(error) and "offset" in str(error)
            refused += 1
        else:
            assert found == entries[: len(found)] or name == "ghost-file-1"
    assert refused > len(whole) // 2 or name == "ghost-file-1"


def break_magic(data: bytes) -> bytes:
    return b"\0" + data[1:]


def break_kind(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", 0x55053847) + data[8:]


def absurd_length(data: bytes) -> bytes:
    return data[:8] + b"\xff\xff\xff\xff" + data[12:]


def undecodable(data: bytes) -> bytes:
    return data[:8] + struct.pack("<I", 4) + b"\xff\xff\xff\xff"


def required_missing(data: bytes) -> bytes:
    return data[:8] + struct.pack("<I", 2) + b"\x08\x05"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_magic, r"does not begin as a pstree image \(offset 0"),
        (break_kind, r"does not begin as a pstree image \(offset 0"),
        (absurd_length, "truncated at offset 12: a pstree_entry takes 4294967295 bytes"),
        (undecodable, "damaged at offset 8: its pstree_entry cannot be decoded"),
        (required_missing, "damaged at offset 8: its pstree_entry lacks ppid, pgid, sid"),
        (lambda data: b"", "truncated at offset 0"),
    ],
)
def test_damage_is_named(images: ImagesDir, damage: Callable[[bytes], bytes], sentence: str) -> None:
    images.write("pstree", [task(5)])
    path = Path(images.file("pstree"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImagesError, match=sentence) as caught:
        images.read("pstree")
    assert str(path) in str(caught.value)


def test_missing_image(images: ImagesDir) -> None:
    with pytest.raises(ImagesError, match="cannot read .*core-7.img: No such file"):
        images.read("core-7")


def test_a_length_of_gigabytes_is_not_allocated(images: ImagesDir) -> None:
    images.write("sk-queues", [Entry(schema.message("sk_packet_entry")(id_for=1, length=4), b"wxyz")])
    path = Path(images.file("sk-queues"))
    huge = schema.message("sk_packet_entry")(id_for=1, length=0xFFFFFFFF).SerializeToString()
    path.write_bytes(path.read_bytes()[:8] + struct.pack("<I", len(huge)) + huge + b"wxyz")
    with pytest.raises(ImagesError, match="the data of a sk_packet_entry takes 4294967295 bytes and 4 are left"):
        images.entries("sk-queues")


def test_images_of_version_1_0_are_read(images: ImagesDir) -> None:
    images.write("pstree", [task(5)])
    path = Path(images.file("pstree"))
    path.write_bytes(path.read_bytes()[4:])
    assert [entry.pid for entry in images.read("pstree")] == [5]


def test_faults_of_the_caller(images: ImagesDir) -> None:
    with pytest.raises(ImagesError, match="takes a pstree_entry here, not a core_entry"):
        images.write("pstree", [schema.message("core_entry")(mtype=1)])
    with pytest.raises(ImagesError, match="a pstree_entry lacks ppid"):
        images.write("pstree", [schema.message("pstree_entry")(pid=1)])
    with pytest.raises(ImagesError, match="announces 3 bytes and has 2"):
        images.write("pipes-data", [Entry(schema.message("pipe_data_entry")(pipe_id=1, bytes=3), b"ab")])


def test_read_one_wants_one(images: ImagesDir) -> None:
    images.write("pstree", [task(5), task(6)])
    with pytest.raises(ImagesError, match="has 2 entries, not 1"):
        images.read_one("pstree")


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImagesError, match="cannot write .*/file/pstree.img: Not a directory; check the path"):
        ImagesDir(str(tmp_path / "file")).write("pstree", [task(5)])
