# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that name the images of a dump. Private to this collection; kept in step with module_utils/_argspecs.py."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of the modules that write or read images."""

    DOCUMENTATION = r"""
options:
  images_dir:
    description:
      - The directory that holds the images of the dump.
    type: path
    required: true
requirements:
  - "Linux 5.9, x86_64"
  - "Python 3.9"
  - "protobuf >= 3.20.3"
  - "python-ptrace >= 0.9.9"
"""

    RUN = r"""
options:
  work_dir:
    description:
      - The directory for statistics and for a relative O(log_file).
      - Defaults to O(images_dir).
    type: path
  log_file:
    description:
      - A file that the engine's log is written to, relative to O(work_dir). Without it there is no log.
    type: path
  action_script:
    description:
      - Programs to run on the host at each stage of the work, the last one first.
      - The stage is in the environment variable E(CRTOOLS_SCRIPT_ACTION), the images directory in E(CRTOOLS_IMAGE_DIR).
        Where it is known, the PID of the root of the tree is in E(CRTOOLS_INIT_PID).
      - A program that fails ends the work, up to the moment when the tasks go on.
    type: list
    elements: path
    default: []
"""

    DUMP = r"""
options:
  images_dir:
    description:
      - The directory that the images are put into, one directory for each dump.
      - It is made, for root alone to read, where it is missing and the directory above it exists. Nothing else may be in it.
  prev_images_dir:
    description:
      - The images directory of the dump before this one, relative to O(images_dir), for example V(../1/).
      - Only memory that changed since that dump is written.
    type: str
  force:
    description:
      - Replace what O(images_dir) holds. Dumps that build on what it holds are lost with it.
    type: bool
    default: false
"""

    TAKE = r"""
options:
  tracker:
    description:
      - What tells which memory has changed.
      - V(uffd_wp) has the kernel write-protect the memory, and needs Linux 6.7.
      - V(soft_dirty) needs a kernel with C(CONFIG_MEM_SOFT_DIRTY).
      - V(compare) compares the memory with the dump before, which is slower and needs nothing.
      - V(auto) takes the first of these that works.
    type: str
    choices: [auto, uffd_wp, soft_dirty, compare]
    default: auto
  auto_dedup:
    description:
      - Free the data in the dumps before this one that this one replaces, as soon as this one is safe on disk.
      - The dumps that data is freed in can no longer be restored by themselves.
    type: bool
    default: false
  external:
    description:
      - What is left out of the dump, because others give it at the restore (C(--inherit-fd) of the command line).
      - C(file[MNT_ID:INODE]) for a descriptor, both in hexadecimal, from C(/proc/PID/fdinfo) and C(stat).
      - C(tty[RDEV:DEV]) for a terminal of others, both in hexadecimal, from C(stat).
      - C(unix[INODE]) for the connection of a unix socket to a process outside of the tree. Once restored, and given by nobody, the
        socket is as if the other end had been closed.
    type: list
    elements: str
    default: []
  cgroup_dump_controller:
    description:
      - The controllers whose control groups are dumped, all of them if it is empty.
    type: list
    elements: str
    default: []
  skip_in_flight:
    description:
      - Let go the TCP connections that have not been accepted yet. Without it, a tree that has any is refused.
    type: bool
    default: false
  timeout:
    description:
      - Seconds allowed for stopping the tree. When they have passed, the tree runs on and the module fails.
    type: float
    default: 10
"""

    WHOLE = r"""
options:
  freeze:
    description:
      - How the memory is held still while it is written.
      - V(snapshot) stops the tree for a copy-on-write snapshot only, and lets it go on while that is written.
      - V(hold) keeps it stopped until everything is written.
      - V(live) copies the memory while the tree runs and stops it for the rest.
      - V(auto) takes V(snapshot) for a tree that goes on, else V(hold).
    type: str
    choices: [auto, live, snapshot, hold]
    default: auto
  ghost_limit:
    description:
      - The biggest file without a name that is kept in the images, in bytes or with a unit, such as V(512K).
      - Of files that only the tree sees, in a private C(/tmp) or a tmpfs of its own, each mount may have as much, but at least V(64M).
    type: str
    default: 1M
  irmap_scan_path:
    description:
      - Directories that are searched for files that the tree watches by inotify or fanotify and to which no path is known otherwise.
    type: list
    elements: path
    default: []
  link_remap:
    description:
      - Carry files that the tree has open and that are no longer under the path that they were opened by, but have other names.
      - Each of them gets a further name in the directory of its old path, C(link_remap.N), until the tree is restored from this dump.
      - Without it, such a tree is refused.
    type: bool
    default: false
  files:
    description:
      - Which files are kept with the dump as they are at the stop, so that M(stillframe.checkpoint.restore) can put them back.
      - V(open) are those that the tree has open for writing, or writes to as shared memory. Absolute paths and patterns, such as
        V(/var/lib/app/*.db), name files besides these. Of a directory, all files in it are kept.
      - A database of SQLite is kept with its journals.
      - They are copied before the stop, and in it only what has changed meanwhile. File systems that can (btrfs, xfs) share the blocks.
        What has not changed since the dump before is there once.
    type: list
    elements: str
    default: [none]
    version_added: 0.2.0
"""

    KEEP = r"""
options:
  keep_last:
    description:
      - Keep so many of the newest dumps.
    type: int
    default: 0
  keep_hourly:
    description:
      - Keep the last dump of each hour, for so many hours that have any. Hours, days and weeks are those of UTC.
    type: int
    default: 0
  keep_daily:
    description:
      - Keep the last dump of each day, for so many days that have any.
    type: int
    default: 0
  keep_weekly:
    description:
      - Keep the last dump of each week (ISO 8601), for so many weeks that have any.
    type: int
    default: 0
  keep_within:
    description:
      - Keep all dumps that are not older than this, such as V(36h), V(7d), V(2w) or V(1d12h).
    type: str
    default: ""
"""

    EXTERNAL = r"""
options:
  shell_job:
    description:
      - Allow a tree whose session or terminal is outside of it, such as a job of a shell.
      - At a restore, the session, and the terminal that standard input is, take the place of those of the dump.
    type: bool
    default: false
  file_locks:
    description:
      - Carry file locks (POSIX, flock and OFD locks) and leases. Without it, a tree that holds any is refused.
      - To be set for the restore too. What another process has locked meanwhile keeps the tree from being restored.
    type: bool
    default: false
  ext_unix_sk:
    description:
      - Allow unix sockets that are connected to a process outside of the tree.
    type: bool
    default: false
  manage_cgroups:
    description:
      - What to do with the control groups that processes are in, version 1 and 2.
      - A restored process joins those that it was in, such as that of its systemd unit.
      - With V(soft) those that are missing are made, with the limits and owners that they had; those that exist are left as they are.
        V(auto) is the same, but what cannot be done is warned of. With V(full) those that exist get their limits again, too. With
        V(strict) none of them may exist. With V(none) and V(props) they must exist; with V(props) they get their limits again. With
        V(ignore) a restored process stays in the control groups of the restore.
      - What a process shared with the engine that dumped it, it shares with the engine that restores it.
    type: str
    choices: [auto, none, props, soft, full, strict, ignore]
    default: auto
  cgroup_root:
    description:
      - Other roots of control groups, each C(/PATH), or C(CONTROLLER:/PATH) for the hierarchy of one controller (C(name=systemd)).
      - A dump has all control groups from there on. A restore puts those of the dump there instead of where they were.
    type: list
    elements: str
    default: []
  cgroup_yard:
    description:
      - A directory below which the hierarchies of control groups are mounted, to be used instead of those that the engine finds.
    type: path
    default: ""
  tcp_established:
    description:
      - Carry TCP connections. Set it for the dump and for the restore.
      - Their packets are dropped (by nf_tables) while they are dumped; and, when the dump ends the tree, until it is restored.
      - Without it, and without O(tcp_close), a tree that has any is refused.
    type: bool
    default: false
  tcp_close:
    description:
      - Let established TCP connections go. The dump leaves them alone; once restored, their sockets are closed, as if the peer had hung up.
      - Set it for the dump and for the restore.
    type: bool
    default: false
"""
