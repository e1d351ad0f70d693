"""Ends a worker that is stuck: a collective whose partner is gone may otherwise wait forever."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
import time
import traceback

from raytrain import storage
from raytrain.train.record import notices

FOLDER = "hangs"
EXIT_CODE = 75


class Watchdog(threading.Thread):
    """Ends this process when it has not beaten for a while; where every thread was is written to
    `<output>/hangs` first."""

    def __init__(self, output: str, rank: int, seconds: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._output, self._rank, self._seconds = output, rank, seconds
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self.beat("the start")
        self.start()

    def beat(self, doing: str) -> None:
        """Say that there is progress, and what is done next."""
        self._doing, self._since = doing, time.monotonic()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()

    def run(self) -> None:
        """Check periodically."""
        pause = min(1.0, self._seconds / 4)
        while not self._ended.wait(pause):
            if time.monotonic() - self._since > self._seconds:
                try:
                    self._tell()
                except Exception:  # nothing may keep a stuck worker: it ends, and says this too
                    traceback.print_exc()
                # The others stopped at the same place: a worker that ended at once would break
                # their connections, and the one to blame might be ended before it had said where
                # it was.
                time.sleep(2 * pause)
                os._exit(EXIT_CODE)

    def _tell(self) -> None:
        path = storage.join(self._output, FOLDER, f"{time.time_ns():020d}-{self._rank:05d}.txt")
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            storage.write_bytes(path, file.read())
        frame = sys._current_frames()[self._main]
        where = (
            f"{frame.f_code.co_name} "
            f"({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"
        )
        text = (
            f"Worker {self._rank} made no progress for {self._seconds:.0f} s in {self._doing}, at "
            f"{where}; it was ended. Where its threads were is in {path}. Look whether another "
            "worker or the network was lost; set train.hang_minutes higher where a step may take "
            "that long."
        )
        notices.tell(self._output, text, self._rank)
        print(text, file=sys.stderr, flush=True)
