#!/bin/sh
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
# sandbox.sh PRIVATE STATE COMMAND...: run COMMAND in a mount namespace such as systemd makes for a service with PrivateTmp=,
# PrivateDevices=, ProtectSystem=strict, ReadWritePaths=STATE, ProtectProc=, ProtectKernelTunables=, ProtectControlGroups=,
# TemporaryFileSystem=, InaccessiblePaths= and BindReadOnlyPaths=.
# To be started by unshare --mount. PRIVATE: the path of the private /tmp on the host, to be made. PROPAGATION: shared, else slave.
set -e
private=$1 state=$2
shift 2

mkdir -m 0700 "$private" && mkdir -m 1777 "$private/tmp" && chmod 1777 "$private/tmp"
build=$state/build
mkdir -p "$build/dev" "$build/inaccessible"
chmod 000 "$build/inaccessible"

mount -t tmpfs -o nosuid,noexec,strictatime,mode=755,size=4m tmpfs "$build/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$build/dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 "$build/dev/tty" c 5 0
ln -s /proc/self/fd "$build/dev/fd"
mkdir "$build/dev/pts" "$build/dev/shm"
mount --bind /dev/pts "$build/dev/pts"
mount --bind /dev/shm "$build/dev/shm"
umount -l /dev
mount --move "$build/dev" /dev

mount --bind "$build/inaccessible" /media
mount --bind -o remount,ro,nosuid,nodev,noexec /media
mount -t tmpfs -o mode=750,uid=7,size=1m,nr_inodes=100 sandbox /srv
echo kept >/srv/file && chown 5:6 /srv/file && chmod 640 /srv/file
mount --bind -o remount,ro,nodev /srv
mount --bind "$state" "$state"
mount --bind /usr /usr
mount --bind -o remount,ro /usr
mount --bind "$private/tmp" /tmp
mount --bind -o remount,nosuid,nodev /tmp
echo bound >"$build/bound"
mount --bind "$build/bound" /etc/hostname
mount --bind -o remount,ro,noexec /etc/hostname
mount --bind -o remount,ro /sys
mount --bind -o remount,ro,relatime /
umount -l /proc
mount -t proc -o nosuid,nodev,noexec,hidepid=invisible proc /proc
mount --bind /proc/sys /proc/sys
mount --bind -o remount,ro,nosuid,nodev,noexec /proc/sys
mount --make-r"${PROPAGATION:-slave}" /
exec "$@"
