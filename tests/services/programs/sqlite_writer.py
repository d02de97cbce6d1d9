# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write to a database in WAL mode without end: each transaction moves an amount between two accounts and is logged."""

from __future__ import annotations

import sqlite3
import sys

ACCOUNTS = 100

connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.executescript(
    """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS move (id INTEGER PRIMARY KEY, source INTEGER, target INTEGER, padding BLOB);
    CREATE TABLE IF NOT EXISTS mark (number INTEGER PRIMARY KEY);
    """
)
connection.executemany("INSERT INTO account VALUES (?, 1000)", [(number,) for number in range(ACCOUNTS)])
for number in range(1 << 62):
    source, target = number % ACCOUNTS, number * 7 % ACCOUNTS
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE account SET amount = amount - 1 WHERE id = ?", (source,))
    connection.execute("INSERT INTO move VALUES (?, ?, ?, zeroblob(500))", (number, source, target))
    connection.execute("UPDATE account SET amount = amount + 1 WHERE id = ?", (target,))
    connection.execute("COMMIT")
