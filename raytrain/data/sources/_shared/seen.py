"""Which texts were seen, however many: a set on disk, so that a million of them take no memory."""

from __future__ import annotations

import sqlite3


class Seen:
    """A growing set of texts in a temporary database, deleted with the object."""

    def __init__(self) -> None:
        self._sql = sqlite3.connect("")  # an empty name is a temporary file
        self._sql.execute("PRAGMA synchronous = OFF")
        self._sql.execute("CREATE TABLE seen (text TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, text: str) -> bool:
        """Add a text; tell whether it was new."""
        return self._sql.execute("INSERT OR IGNORE INTO seen VALUES (?)", (text,)).rowcount == 1

    def __contains__(self, text: str) -> bool:
        return bool(self._sql.execute("SELECT 1 FROM seen WHERE text = ?", (text,)).fetchone())
