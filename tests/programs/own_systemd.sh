#!/bin/sh
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
# own_systemd.sh CGROUP...: run a systemd for the units in $HOME/.config/systemd/user, in the directories CGROUP of control groups.
# To be started by unshare --mount: the machine may not have been started by systemd.
set -e
mount --make-rprivate /
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir /run/systemd/system
for cgroup in "$@"; do
    echo $$ >"$cgroup/cgroup.procs"
done
exec /usr/lib/systemd/systemd --user --log-target=console
