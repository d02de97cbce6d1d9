# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of a terminal: how it treats what goes through it, what of that is locked, and its window.

images: tty-info (tty_info_entry.{termios,termios_locked,winsize}). CRIU leaves the speeds at 0: c_cflag tells those that have a name.
Its c_cc are the bytes of the C library's array, four in each of the first words (termios_copy of criu/tty.c).
"""

from __future__ import annotations

import struct

from ...images.schema import message
from ...kernel import tty
from ...kernel.tty import Termios
from .kind import Entry

_CHARACTERS = 19
_WORDS = 19
"""CRIU refuses fewer."""
_NOTHING = Termios(0, 0, 0, 0, 0, bytes(_CHARACTERS))


def read_settings(local: int, info: Entry) -> None:
    """Put the settings of the terminal LOCAL into INFO, a tty_info_entry. Raises OSError."""
    info.termios.CopyFrom(_entry(tty.get_termios(local)))
    info.termios_locked.CopyFrom(_entry(tty.get_locked(local)))
    rows, columns, width, height = tty.get_window(local)
    info.winsize.CopyFrom(message("winsize_entry")(ws_row=rows, ws_col=columns, ws_xpixel=width, ws_ypixel=height))


def apply_settings(local: int, info: Entry, window: bool = True) -> None:
    """Give the terminal LOCAL the settings in INFO, those of its WINDOW only if asked. Raises OSError."""
    if info.HasField("termios_locked"):
        tty.set_locked(local, _NOTHING)
    if info.HasField("termios"):
        tty.set_termios(local, settings_of(info))
    if info.HasField("termios_locked"):
        tty.set_locked(local, _termios(info.termios_locked))
    if window and info.HasField("winsize"):
        wanted = info.winsize.ws_row, info.winsize.ws_col, info.winsize.ws_xpixel, info.winsize.ws_ypixel
        if tty.get_window(local) != wanted:  # a console may refuse to be set even to what it is
            tty.set_window(local, wanted)


def settings_of(info: Entry) -> Termios:
    """Return how a terminal of INFO is to treat what goes through it."""
    return _termios(info.termios)


def _entry(settings: Termios) -> Entry:
    return message("termios_entry")(
        c_iflag=settings.iflag,
        c_oflag=settings.oflag,
        c_cflag=settings.cflag,
        c_lflag=settings.lflag,
        c_line=settings.line,
        c_ispeed=settings.ispeed,
        c_ospeed=settings.ospeed,
        c_cc=struct.unpack(f"<{_WORDS}I", settings.cc.ljust(_WORDS * 4, b"\0")),
    )


def _termios(entry: Entry) -> Termios:
    flags = (entry.c_iflag, entry.c_oflag, entry.c_cflag, entry.c_lflag, entry.c_line)
    characters = struct.pack(f"<{len(entry.c_cc)}I", *entry.c_cc)[:_CHARACTERS].ljust(_CHARACTERS, b"\0")
    return Termios(*flags, characters, entry.c_ispeed, entry.c_ospeed)
