# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a mount: on their way into a tar archive in the images, and out of it.

images: tmpfs-dev-DEVICE.tar.gz.img, as CRIU has it of a tmpfs; tmpfs-MOUNT.tar.gz.img of a private directory. Sockets are left
out: those that a task of the tree has bound are bound again.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator

from ...images.fault import faults
from ...images.image import create
from ...kernel.mount import MOUNT_ATTR_NOATIME, open_tree, set_attributes

_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}
_BILLION = 1000000000
_XATTR = "SCHILY.xattr."
"""How tar names extended attributes among the pax headers."""


def open_mount(place: str) -> int:
    """Return a descriptor of a mount of what is at PLACE, with nothing mounted below, that leaves access times alone. Raises OSError."""
    mount = open_tree(place)
    set_attributes(mount, MOUNT_ATTR_NOATIME)
    return mount


def weigh(root: int) -> int:
    """Return the bytes that the files below ROOT, a descriptor, have. Raises OSError."""
    return sum(status.st_size for _path, status in _walk(root) if stat.S_ISREG(status.st_mode))


def pack(root: int) -> int:
    """Return a memfd with a tar archive of all below ROOT, a descriptor, and of itself. Raises OSError."""
    archive = os.memfd_create("content")
    known: dict[tuple[int, int], str] = {}
    with os.fdopen(os.dup(archive), "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, status in _walk(root):
            member = _member(root, path, status)
            if member is None:
                continue
            key = (status.st_dev, status.st_ino)
            if not member.isdir() and key in known:
                member.type, member.linkname, member.size = tarfile.LNKTYPE, known[key], 0
            known[key] = path
            if member.isreg():
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root), "rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
    return archive


def _walk(root: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the paths below ROOT, relative to it and itself first, directories before what is in them."""
    yield ".", os.fstat(root)
    for directory, directories, names, fd in os.fwalk(".", dir_fd=root):
        for name in sorted((*directories, *names)):
            yield os.path.join(directory, name), os.lstat(name, dir_fd=fd)


def _member(root: int, path: str, status: os.stat_result) -> tarfile.TarInfo | None:
    """Return the head of PATH in the archive, None for a socket."""
    member = tarfile.TarInfo(path)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    member.type, member.mode, member.uid, member.gid = kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    member.pax_headers = {"mtime": _seconds(status.st_mtime_ns), "atime": _seconds(status.st_atime_ns)}
    if kind == tarfile.REGTYPE:
        member.size = status.st_size
    elif kind == tarfile.SYMTYPE:
        member.linkname = os.readlink(path, dir_fd=root)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if kind in (tarfile.REGTYPE, tarfile.DIRTYPE):
        member.pax_headers.update(_xattrs(root, path, status.st_mode))
    return member


def _seconds(nanoseconds: int) -> str:
    """Return a time as pax headers have it: in seconds, which tarfile itself would round."""
    return f"{nanoseconds // _BILLION}.{nanoseconds % _BILLION:09}"


def _nanoseconds(seconds: str) -> int:
    whole, _point, fraction = seconds.partition(".")
    return int(whole) * _BILLION + int(fraction.ljust(9, "0"))


def _xattrs(root: int, path: str, mode: int) -> dict[str, str]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DIRECTORY if stat.S_ISDIR(mode) else 0)
    fd = os.open(path, flags, dir_fd=root)
    try:
        return {_XATTR + name: os.fsdecode(os.getxattr(fd, name)) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # of a filesystem that has none
            raise
        return {}
    finally:
        os.close(fd)


def write(archive: int, path: str) -> None:
    """Write ARCHIVE, as `pack` has it, compressed to PATH. Raises ImagesError."""
    os.lseek(archive, 0, os.SEEK_SET)
    with os.fdopen(os.dup(archive), "rb") as content, faults("write", path), create(path) as file, gzip.open(file, "wb", 1) as compressed:
        shutil.copyfileobj(content, compressed, 1 << 20)


def unpack(path: str, root: int) -> None:
    """Put the files of the archive at PATH into directory ROOT, a descriptor, by a thread whose working directory is its own.

    Raises OSError, tarfile.TarError.
    """
    with tarfile.open(path, "r:gz") as tar:
        tar.extraction_filter = lambda member, _path: member  # all of it: the images are ours
        os.fchdir(root)
        try:
            tar.extractall(numeric_owner=True)
            for member in tar.getmembers():
                _set_xattrs(member)
                times = tuple(_nanoseconds(member.pax_headers[name]) for name in ("atime", "mtime"))
                os.utime(member.name, ns=(times[0], times[1]), follow_symlinks=False)
        finally:
            os.chdir("/")


def _set_xattrs(member: tarfile.TarInfo) -> None:
    for name, value in member.pax_headers.items():
        if name.startswith(_XATTR):
            os.setxattr(member.name, name[len(_XATTR) :], os.fsencode(value), follow_symlinks=False)
