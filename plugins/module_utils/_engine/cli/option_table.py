# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every option of CRIU 4.2 (long_opts in its config.c) and ours: what becomes of it here. Also the source of `--help`."""

from __future__ import annotations

from collections.abc import Mapping

from .option import FLAG, HARMLESS, OPTIONAL, REFUSED, SUPPORTED, VALUE, Option

Table = Mapping[str, tuple[Option, ...]]


def _supported(
    name: str,
    kind: str,
    text: str,
    short: str = "",
    metavar: str = "",
    twin: bool = False,
    choices: tuple[str, ...] = (),
    sets: str = "",
    ours: bool = False,
) -> Option:
    return Option(name, SUPPORTED, kind, text, short, metavar, twin, choices, sets, ours)


def _harmless(name: str, kind: str, text: str, short: str = "", twin: bool = False, choices: tuple[str, ...] = ()) -> Option:
    return Option(name, HARMLESS, kind, text, short, "", twin, choices)


def _refused(name: str, kind: str, text: str, short: str = "", twin: bool = False) -> Option:
    return Option(name, REFUSED, kind, text, short, "", twin)


GENERIC = (
    _supported("tree", VALUE, "dump the process tree whose root is PID", "t", "PID"),
    _supported("pid-file", VALUE, "or that whose PID is in FILE", metavar="FILE", ours=True),
    _supported("name", VALUE, "or that whose name is NAME", metavar="NAME", ours=True),
    _supported("systemd-unit", VALUE, "or that of systemd unit UNIT", metavar="UNIT", ours=True),
    _supported("cgroup", VALUE, "or that in control group CGROUP", metavar="CGROUP", ours=True),
    _supported("images-dir", VALUE, "directory of the images (default: .)", "D", "DIR"),
    _supported("work-dir", VALUE, "directory to change to, for log, pidfile and stats (default: the images dir)", "W", "DIR"),
    _supported("leave-running", FLAG, "leave the tasks running after the dump", "R"),
    _supported("leave-stopped", FLAG, "leave the tasks stopped after the dump or the restore", "s"),
    _supported("restore-detached", FLAG, "do not wait for the restored tree to end", "d", twin=True),
    _supported("restore-sibling", FLAG, "restore the root task as a child of the caller; with --restore-detached", "S", twin=True),
    _supported(
        "daemon",
        FLAG,
        "the same as --restore-detached; a page server goes on in the background",
        twin=True,
        sets="restore_detached",
    ),
    _supported("exec-cmd", FLAG, "after the restore, become the command that stands behind --; of a drill, it is the check"),
    _supported(
        "pidfile",
        VALUE,
        "write the PID of the restored root task, or of the page server, to FILE, which must not exist",
        metavar="FILE",
    ),
    _supported(
        "status-fd",
        VALUE,
        "write one \\0 to descriptor FD on success, of a page server when it listens, and close it",
        metavar="FD",
    ),
    _supported("close", VALUE, "close descriptor FD first", metavar="FD"),
    _supported("action-script", VALUE, "run FILE at each stage, told by CRTOOLS_SCRIPT_ACTION; may be repeated", metavar="FILE"),
    _supported("timeout", VALUE, "seconds for stopping the tree, or for the check of a drill (default: 10; 0: no limit)", metavar="NUM"),
    _supported("force", FLAG, "dump into a directory that holds a dump already, and replace it", ours=True),
)

MEMORY = (
    _supported("track-mem", FLAG, "track memory changes from this dump on, for the next one", twin=True),
    _supported("prev-images-dir", VALUE, "the previous dump, relative to the images dir", metavar="DIR"),
    _supported("keep-parents", FLAG, "squash: remove none of the previous dumps", twin=True, ours=True),
    _supported("keep-restorable", FLAG, "dedup: free only zeros and what the parent has too", twin=True, ours=True),
    _supported("auto-dedup", FLAG, "free in the previous dumps what this one replaces; on restore, the images as they are read", twin=True),
    _supported(
        "tracker",
        VALUE,
        "what tells the changed pages (default: auto)",
        metavar="NAME",
        choices=("auto", "uffd_wp", "soft_dirty", "compare"),
        ours=True,
    ),
    _supported(
        "freeze",
        VALUE,
        "how memory is held still while it is written (default: auto)",
        metavar="HOW",
        choices=("auto", "live", "snapshot", "hold"),
        ours=True,
    ),
)

PAGE_SERVER = (
    _supported("page-server", FLAG, "send the pages of a dump to a page server, instead of writing them to the images dir", twin=True),
    _supported("address", VALUE, "address of the page server, or to listen on (default: 127.0.0.1)", metavar="ADDR"),
    _supported("port", VALUE, "port of the page server, or to listen on (default there: 0, a free one, printed)", metavar="PORT"),
    _supported("ps-socket", VALUE, "descriptor FD is the connection to the page server, or to its client", metavar="FD"),
    _supported("tls", FLAG, "use TLS 1.3; both sides have to show a certificate", twin=True),
    _supported("tls-cacert", VALUE, "trust certificates that the authority in FILE has signed", metavar="FILE"),
    _supported("tls-cacrl", VALUE, "but not those that the revocation list in FILE names", metavar="FILE"),
    _supported("tls-cert", VALUE, "our certificate (default: /etc/pki/criu/cert.pem)", metavar="FILE"),
    _supported("tls-key", VALUE, "its key (default: /etc/pki/criu/private/key.pem)", metavar="FILE"),
    _supported("tls-no-cn-verify", FLAG, "do not ask for the address of the page server in its certificate"),
    _supported("tls-peer-cert", VALUE, "trust the certificate in FILE, and no other", metavar="FILE", ours=True),
    _supported(
        "tls-peer-fingerprint",
        VALUE,
        "trust the page server with this SHA-256 of its certificate, no other",
        metavar="HEX",
        ours=True,
    ),
)

MIGRATE = (
    _supported("max-downtime", VALUE, "milliseconds that the tree may stand still (default: 100)", metavar="MS", ours=True),
    _supported("max-rounds", VALUE, "rounds at most before the stop (default: 10)", metavar="NUM", ours=True),
    _supported("bandwidth-limit", VALUE, "bytes a second; K, M or G may follow (default: no limit)", metavar="SIZE", ours=True),
    _supported(
        "compress",
        VALUE,
        "compress memory on its way, or an archive; auto does so where that is quicker (default: none)",
        metavar="HOW",
        choices=("none", "zstd", "auto"),
        ours=True,
    ),
    _supported(
        "carry-files",
        VALUE,
        "take along FILE, or with open all files that the tree has open for writing; may be repeated",
        metavar="FILE",
        ours=True,
    ),
    _supported("accept-files", VALUE, "receive: let PATH come along, or what is below it; may be repeated", metavar="PATH", ours=True),
    _supported("settle", VALUE, "find out what became of a move that was left in doubt", metavar="SESSION", ours=True),
)

STATE = (
    _supported("shell-job", FLAG, "allow a session or terminal that belongs to a process outside the tree", "j", twin=True),
    _supported("file-locks", FLAG, "carry file locks and leases; without it a tree that holds any is refused", "l", twin=True),
    _supported("tcp-established", FLAG, "carry TCP connections: their packets are dropped until they are restored", twin=True),
    _supported("tcp-close", FLAG, "let TCP connections go: their sockets are closed once restored", twin=True),
    _supported("skip-in-flight", FLAG, "let go the TCP connections that nobody has accepted yet", twin=True),
    _supported("ext-unix-sk", OPTIONAL, "allow unix sockets whose peer is outside the tree", "x"),
    _supported("irmap-scan-path", VALUE, "search below PATH for watched files that have no known path; may be repeated", metavar="PATH"),
    _supported("external", VALUE, "file[MNT_ID:INODE], tty[RDEV:DEV] or unix[INODE]: leave it out, for others to give it", metavar="RES"),
    _supported("inherit-fd", VALUE, "fd[N]:RES: use descriptor N for the pipe, socket, file or path RES; may be repeated", metavar="RES"),
    _supported("ghost-limit", VALUE, "largest unlinked file kept in the images; K, M or G may follow (default: 1M)", metavar="SIZE"),
    _supported("link-remap", FLAG, "give files that are no longer under their path a name, link_remap.N, until the restore", twin=True),
    _supported("files", VALUE, "keep files: open (those open for writing), PATH or PATTERN; may be repeated", metavar="WHICH", ours=True),
    _supported("restore-files", FLAG, "put the files that the dump keeps back as they were", twin=True, ours=True),
    _supported(
        "file-validation",
        VALUE,
        "how a file is known to be the one dumped (default: buildid)",
        metavar="HOW",
        choices=("filesize", "buildid"),
    ),
    _supported(
        "manage-cgroups",
        OPTIONAL,
        "what to do with cgroups: none or props (they must exist, and are left or get their properties), soft (make those that are "
        "missing), full (and set the properties of all), strict (none may exist), ignore (default: as soft, but only warn)",
        metavar="MODE",
        choices=("none", "props", "soft", "full", "strict", "ignore"),
    ),
    _supported("cgroup-root", VALUE, "[CONTROLLER:]/PATH: dump cgroups from there on, restore them there; may be repeated", metavar="ROOT"),
    _supported("cgroup-yard", VALUE, "use the cgroup hierarchies that are mounted below DIR", metavar="DIR"),
    _supported("cgroup-dump-controller", VALUE, "dump the cgroups of this controller only; may be repeated", metavar="NAME"),
)

CHECK = (
    _supported("feature", VALUE, "check one feature only; may be repeated", metavar="NAME"),
    _supported("extra", FLAG, "check also what only some trees need", twin=True),
    _supported("experimental", FLAG, "check also what is experimental", twin=True),
    _supported("all", FLAG, "the same as --extra --experimental"),
)

LOGGING = (
    _supported("log-file", VALUE, "log to FILE in the work dir; - is standard output (default: standard error)", "o", "FILE"),
    _supported("verbosity", OPTIONAL, "-v4, -vv or --verbosity=4: 1 errors, 2 warnings (default), 3 information, 4 debug", "v", "NUM"),
    _supported("display-stats", FLAG, "print statistics of the dump or the restore", twin=True),
    _supported("config", VALUE, "read options from FILE, a line each; no other configuration file is read", metavar="FILE"),
    _supported("version", FLAG, "print the version", "V"),
    _supported("help", FLAG, "print this text", "h"),
)

HARMLESS_OPTIONS = (
    _harmless("no-default-config", FLAG, "no default configuration file is ever read"),
    _harmless("deprecated", FLAG, "nothing here is deprecated", twin=True),
    _harmless("unprivileged", FLAG, "no user is asked for; the kernel decides what is allowed", twin=True),
    _harmless("log-pid", FLAG, "one process does all the work, so there is one log", twin=True),
    _harmless("libdir", VALUE, "there are no plugins; what one would carry is refused by name", "L"),
    _harmless("pre-dump-mode", VALUE, "memory is always read from outside the task", choices=("splice", "read")),
    _harmless("ghost-fiemap", FLAG, "a matter of speed only", twin=True),
    _harmless("evasive-devices", FLAG, "permits a substitute that is never needed: a device is opened by its own path", twin=True),
    _harmless("force-irmap", FLAG, "permits a search that --irmap-scan-path asks for by itself", twin=True),
    _harmless("allow-uprobes", FLAG, "permits a mapping that is refused by name", twin=True),
    _harmless("skip-file-rwx-check", FLAG, "permission bits are not compared", twin=True),
    _harmless("cpu-cap", OPTIONAL, "the register state in the images is always checked against the CPU"),
    _harmless(
        "network-lock",
        VALUE,
        "TCP connections are always locked by nftables, without its program",
        choices=("iptables", "nftables", "skip", "none"),
    ),
    _harmless("mntns-compat-mode", FLAG, "mounts are made again in one way only", twin=True),
    _harmless("skip-mnt", VALUE, "of mounts that the caller has too, none need be made again"),
    _harmless("enable-fs", VALUE, "no filesystem but tmpfs and proc is made again"),
    _harmless("weak-sysctls", FLAG, "sysctls are neither dumped nor restored", twin=True),
)

_NAMESPACES = "a tree is restored in the namespaces of the caller"
_CGROUPS = "cgroups are used where they are mounted, with the properties that CRIU takes by itself"
_EXTERNAL = "mounts and devices outside the tree cannot be named; --external takes files, terminals and unix sockets"
_LSM = "a tree is restored in the security domain of the engine, and refused if it was in another"

REFUSED_OPTIONS = (
    _refused("lazy-pages", FLAG, "all pages are there before a restored task runs"),
    _refused("stream", FLAG, "images are files in the images dir", twin=True),
    _refused("freeze-cgroup", VALUE, "the tree is stopped task by task"),
    _refused("ext-mount-map", VALUE, _EXTERNAL, "M"),
    _refused("enable-external-sharing", FLAG, _EXTERNAL),
    _refused("enable-external-masters", FLAG, _EXTERNAL),
    _refused("veth-pair", VALUE, _EXTERNAL),
    _refused("root", VALUE, _NAMESPACES, "r"),
    _refused("join-ns", VALUE, _NAMESPACES, "J"),
    _refused("empty-ns", VALUE, _NAMESPACES),
    _refused("cgroup-props", VALUE, _CGROUPS),
    _refused("cgroup-props-file", VALUE, _CGROUPS),
    _refused("lsm-profile", VALUE, _LSM),
    _refused("lsm-mount-context", VALUE, _LSM),
    _refused("ms", FLAG, "CRIU took it away as well; name the features to be checked with --feature"),
)

RETENTION = (
    _supported("full-every", VALUE, "checkpoint: make a full dump when a chain has so many (default: 0, never)", metavar="NUM", ours=True),
    _supported("keep-last", VALUE, "keep the newest dumps", metavar="NUM", ours=True),
    _supported("keep-hourly", VALUE, "keep the last dump of each hour, for so many hours that have any", metavar="NUM", ours=True),
    _supported("keep-daily", VALUE, "keep the last dump of each day, likewise", metavar="NUM", ours=True),
    _supported("keep-weekly", VALUE, "keep the last dump of each week, likewise", metavar="NUM", ours=True),
    _supported("keep-within", VALUE, "keep all dumps that are not older, such as 36h, 7d or 1d12h", metavar="TIME", ours=True),
    _supported("dry-run", FLAG, "checkpoint, prune, migrate, export, import: only tell what would be done", twin=True, ours=True),
)

ARCHIVES = (
    _supported("archive", VALUE, "export, import: the file to write or to read", metavar="FILE", ours=True),
    _supported("recipients-file", VALUE, "export: encrypt by age, for the public keys in FILE", metavar="FILE", ours=True),
    _supported("identity-file", VALUE, "import: the private key of age is in FILE", metavar="FILE", ours=True),
)

GROUPS: Table = {
    "Generic": GENERIC,
    "Memory": MEMORY,
    "Page server": PAGE_SERVER,
    "migrate": MIGRATE,
    "Kinds of state": STATE,
    "checkpoint, prune": RETENTION,
    "check": CHECK,
    "Logging and others": LOGGING,
    "Accepted without effect": HARMLESS_OPTIONS,
    "Not supported yet, refused": REFUSED_OPTIONS,
    "Archives": ARCHIVES,
}

OPTIONS: tuple[Option, ...] = tuple(option for group in GROUPS.values() for option in group)
