"""Who runs a sweep where no lock can say it, on an object store or in a database: a note beside
the study, written again and again.

A note older than `STALE` seconds is that of a driver that was killed, and the next driver writes
its own. A driver reads the note before it writes the study, and ends where it is another's: a
driver that was only slow does no harm. The clocks of the machines must agree to some seconds.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from raytrain.errors import UserError

BEAT, STALE = 15.0, 60.0
"""Seconds between two beats of a driver that waits, and without one until it counts as killed."""
Note = dict[str, Any]
_PASSING = (OSError, SQLAlchemyError, StorageInternalError)
"""What a store that cannot be reached raises."""


class Lease:
    """The right to write one study: `read` and `write` get and put its note, None for none."""

    def __init__(
        self, where: str, read: Callable[[], Note | None], write: Callable[[Note | None], None]
    ) -> None:
        self._where = where
        self._read = read
        self._write = write
        self._owner = uuid.uuid4().hex
        self._turn = threading.Lock()

    def take(self, stale: float) -> None:
        """Write this driver's note; UserError where another's is not yet stale."""
        if note := self._read():
            silent = time.time() - note["beat"]
            if silent < stale:
                raise UserError(
                    f"A study has one driver, but {_driver(note)} runs the sweep in "
                    f"{self._where!r}, heard of {max(silent, 0):.0f} s ago; two would run each "
                    "other's trials. Wait for it, or choose another output folder. If it was "
                    f"killed, the same command goes on in {stale - silent:.0f} s: a driver counts "
                    f"as killed after {stale:.0f} s of silence."
                )
        self._note()
        self.beat()  # of two that began at once the later one's note is there

    def beat(self) -> None:
        """Write the time into the note; UserError where the note is another driver's by now."""
        with self._turn:
            note = self._read()
            if not self._is_own(note):
                raise UserError(
                    f"A study has one driver, and {_driver(note)} took the sweep in "
                    f"{self._where!r} over, since nothing was heard of this one for too long; "
                    "this one ends. What it had finished is kept; leave the sweep to the other, "
                    "or end that and run the same command again."
                )
            self._note()

    def give_back(self) -> None:
        """Take the note away, unless it is another driver's."""
        with self._turn:
            if self._is_own(self._read()):
                self._write(None)

    def _is_own(self, note: Note | None) -> bool:
        return note is not None and note["owner"] == self._owner

    def _note(self) -> None:
        self._write(
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "process": os.getpid(),
                "beat": time.time(),
            }
        )


@contextmanager
def held(lease: Lease, stale: float = STALE, beat: float = BEAT) -> Iterator[None]:
    """Hold a lease for the length of the block, with a beat every so many seconds; UserError where
    another driver holds it."""
    lease.take(stale)
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(lease, ended, beat), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        lease.give_back()


def _keep(lease: Lease, ended: threading.Event, beat: float) -> None:
    while not ended.wait(beat):
        try:
            lease.beat()
        except UserError:
            return  # so does the beat before the next event, which ends the sweep
        except _PASSING:
            continue  # the next event fails too, if it lasts


def _driver(note: Note | None) -> str:
    return f"process {note['process']} on {note['host']}" if note else "another driver"
