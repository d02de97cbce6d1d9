# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the verbs take: plain values, named as CRIU's long options."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence, Tuple

from .progress import Progress

if TYPE_CHECKING:
    from .chains.retention import Rule
    from .transfer.tls import TlsOptions

Hook = Callable[[str, Mapping[str, str]], None]
"""Called with the name of a stage, as CRIU's --action-script has them, and its environment (CRTOOLS_…).
Raises to stop the verb."""


def no_hook(stage: str, environment: Mapping[str, str]) -> None:
    """Do nothing: the hook of those who want none."""


Filled = Callable[[int], Optional[int]]
"""Returns our descriptor of the shared memory with that shmid, made and filled already and the caller's to close; else None."""


def nothing_filled(_shmid: int) -> Optional[int]:
    """Return None: all is filled from images."""


@dataclass(frozen=True)
class PageServerOptions:
    """Where a dump sends its pages."""

    address: str = "127.0.0.1"
    port: int = 0
    socket: int = -1
    """A descriptor that is connected to the page server already, used as it is; -1 to connect to address and port."""
    tls: Optional[TlsOptions] = None
    """None for no TLS."""

    def __str__(self) -> str:
        return f"descriptor {self.socket}" if self.socket >= 0 else f"{self.address} port {self.port}"


@dataclass(frozen=True)
class DumpOptions:
    """Options of `dump` and `pre_dump`."""

    tree: int
    images_dir: str
    work_dir: Optional[str] = None
    """Where stats are written; images_dir when None."""
    prev_images_dir: Optional[str] = None
    """The parent dump, relative to images_dir (an absolute path is made relative)."""
    leave_running: bool = False
    leave_stopped: bool = False
    track_mem: bool = False
    tracker: str = "auto"
    """auto, uffd_wp, soft_dirty or compare."""
    freeze: str = "auto"
    """auto, live, snapshot or hold."""
    auto_dedup: bool = False
    shell_job: bool = False
    file_locks: bool = False
    ext_unix_sk: bool = False
    external: Sequence[str] = ()
    """What others give at the restore: see resources/files/external.py."""
    manage_cgroups: str = "auto"
    """auto, none, props, soft, full, strict or ignore: see resources/cgroups.py."""
    cgroup_root: Sequence[str] = ()
    """Each [CONTROLLER:]/PATH: see resources/cgroup_roots.py."""
    cgroup_yard: str = ""
    """A directory below which all hierarchies are mounted; empty for where they are mounted elsewhere."""
    cgroup_dump_controller: Sequence[str] = ()
    """The controllers whose cgroups are dumped; all if empty."""
    tcp_established: bool = False
    tcp_close: bool = False
    """Let established TCP connections go: their sockets are closed once restored."""
    skip_in_flight: bool = False
    """Let go the connections that nobody has accepted yet."""
    ghost_limit: int = 1 << 20
    """Bytes: the biggest unlinked file that is kept in the images; also the most, or 64 MiB, in files of a mount that only the tree has."""
    irmap_scan_path: Tuple[str, ...] = ()
    """Where watched files are searched for to which no path is known otherwise."""
    link_remap: bool = False
    """Give files whose path no longer leads to them a name of the dump's own."""
    files: Sequence[str] = ()
    """Files to be kept: none, or open and absolute paths and patterns; see resources/files/written.py."""
    timeout: float = 10.0
    """Seconds allowed for stopping the tree."""
    force: bool = False
    """Replace what images_dir holds."""
    page_server: Optional[PageServerOptions] = None
    """Send the pages there; all else is put into images_dir."""
    progress: Progress = field(default_factory=Progress, compare=False)
    hook: Hook = field(default=no_hook, compare=False)
    """With any but `no_hook` the tree stands still until stage post-dump is over, so that files can be copied there in step with it."""

    @property
    def holds(self) -> bool:
        """Whether the tree stands still until its dump is written."""
        return not self.leave_running or self.freeze == "hold" or self.hook is not no_hook


@dataclass(frozen=True)
class CheckpointOptions:
    """Options of `checkpoint`."""

    dump: DumpOptions
    """Its images_dir is the images root. The tree is left running, and tracked."""
    full_every: int = 0
    """The longest chain: after so many dumps a full one is made; 0 for no limit."""
    keep: Optional[Rule] = None
    """The dumps to keep; None for all."""


@dataclass(frozen=True)
class ReceiveOptions:
    """Options of `page_server`."""

    images_dir: str
    prev_images_dir: Optional[str] = None
    """The parent, relative to images_dir."""
    auto_dedup: bool = False
    tls: Optional[TlsOptions] = None
    timeout: Optional[float] = None
    """Seconds to wait for a client, or for anything from it; None for no limit."""


@dataclass(frozen=True)
class RestoreOptions:
    """Options of `restore`."""

    images_dir: str
    work_dir: Optional[str] = None
    leave_stopped: bool = False
    shell_job: bool = False
    file_locks: bool = False
    ext_unix_sk: bool = False
    inherit_fd: Sequence[str] = ()
    """Descriptors of ours in the place of files of the images: see resources/files/external.py."""
    manage_cgroups: str = "auto"
    """auto, none, props, soft, full, strict or ignore: see resources/cgroups.py."""
    cgroup_root: Sequence[str] = ()
    """Each [CONTROLLER:]/PATH: see resources/cgroup_roots.py."""
    cgroup_yard: str = ""
    """A directory below which all hierarchies are mounted; empty for where they are mounted elsewhere."""
    tcp_established: bool = False
    tcp_close: bool = False
    """Let established TCP connections go: their sockets are closed once restored."""
    auto_dedup: bool = False
    track_mem: bool = False
    restore_sibling: bool = False
    """Make the root task a child of our parent, not of ours."""
    file_validation: str = "buildid"
    """filesize or buildid."""
    restore_files: bool = False
    """Put the files that the dump keeps back as they were."""
    apart: bool = False
    """In namespaces of our own, that end with us: nobody else is there to be minded."""
    progress: Progress = field(default_factory=Progress, compare=False)
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    """The files that are to be in the place of others in the end, and are elsewhere yet, by the paths that they are to have."""
    filled: Filled = field(default=nothing_filled, compare=False)
    hook: Hook = field(default=no_hook, compare=False)


@dataclass(frozen=True)
class DrillOptions:
    """Options of `drill`."""

    images_dir: str
    command: Sequence[str] = ()
    """What is run to see whether the tree does what it should, the program first; none to see only that it lives."""
    timeout: float = 60.0
    """Seconds that it may take."""
    file_validation: str = "buildid"
    """filesize or buildid."""
    hook: Hook = field(default=no_hook, compare=False)
    """Called with none of the stages: nobody is to notice."""


Connect = Callable[[float], socket.socket]
"""Returns a socket that leads to the other end, authenticated if it is to be; waits for that many seconds at most. Raises OSError."""


@dataclass(frozen=True)
class MigrateOptions:
    """Options of `migrate`."""

    tree: int
    max_downtime: float = 0.1
    """Seconds: the rounds end when the rest is expected to be sent in this time."""
    max_rounds: int = 10
    bandwidth_limit: int = 0
    """Bytes a second; 0 for none."""
    compress: str = "none"
    """none, zstd, or auto: whichever is quicker."""
    carry_files: Sequence[str] = ()
    """Files that come along: paths, or open for those that the tree has open for writing."""
    tracker: str = "auto"
    """auto, uffd_wp, soft_dirty or compare."""
    shell_job: bool = False
    file_locks: bool = False
    ext_unix_sk: bool = False
    manage_cgroups: str = "auto"
    tcp_established: bool = False
    tcp_close: bool = False
    skip_in_flight: bool = False
    ghost_limit: int = 1 << 20
    timeout: float = 10.0
    """Seconds allowed for stopping the tree."""
    link_timeout: float = 30.0
    """Seconds until an end that says nothing counts as lost."""
    decision_timeout: float = 60.0
    """Seconds to find out what became of the tree when the connection was lost at the decision."""
    progress: Progress = field(default_factory=Progress, compare=False)
    hook: Hook = field(default=no_hook, compare=False)
    """Called with pre-freeze and post-freeze."""


@dataclass(frozen=True)
class ReceiveTreeOptions:
    """Options of `receive`."""

    shell_job: bool = False
    file_locks: bool = False
    ext_unix_sk: bool = False
    manage_cgroups: str = "auto"
    tcp_established: bool = False
    tcp_close: bool = False
    track_mem: bool = False
    restore_sibling: bool = False
    file_validation: str = "buildid"
    source_timeout: float = 30.0
    """Seconds until a source has to have come."""
    link_timeout: float = 30.0
    decision_timeout: float = 30.0
    """Seconds that a tree which is ready waits for a lost source; less than the source's own."""
    progress: Progress = field(default_factory=Progress, compare=False)
    accept_files: Sequence[str] = ()
    """The files that a source may send along, and directories below which it may send any."""
    hook: Hook = field(default=no_hook, compare=False)
    """Called with pre-restore, post-restore, pre-resume and post-resume."""
