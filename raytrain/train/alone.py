"""One worker on this machine, without Ray: a process of its own, watched and started anew as Ray Train does with its workers.

    python -m raytrain.train.alone          # reads the config from its first line, and ends when its input does

So the worker is gone when the command that waits for it is gone, however that ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

from raytrain.config import Config
from raytrain.train import notices

EXIT_CODE = 76


class WorkerDied(RuntimeError):  # noqa: N818
    """The worker ended more often than it may."""


class AloneTrainer:
    """Has the verb of Ray's trainers that a launch needs."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def fit(self) -> None:
        """Train to the end; raises WorkerDied when the worker died more often than `train.max_failures`."""
        budget, failures = self._config.train.max_failures, 0
        while code := self._run():
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            failures += 1
            if failures > budget:
                raise WorkerDied(
                    f"The worker ended with {ended}, after {budget} others (train.max_failures = {budget}). What it was "
                    "doing is above. The same command goes on from the last checkpoint."
                )
            told = f"The worker ended with {ended}; it starts anew from the last checkpoint ({failures} of {budget})."
            notices.tell(self._config.output, told)

    def _run(self) -> int:
        command = [sys.executable, "-m", "raytrain.train.alone"]
        # A session of its own: Ctrl-C is the command's, which lets the worker save.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdin is not None
        with process.stdin as stream:
            stream.write(json.dumps(self._config.values()) + "\n")
            stream.flush()
            return process.wait()


def main() -> None:
    """Train with the config on the first line of the input."""
    from raytrain.configfile import parse
    from raytrain.train.launch import work

    values = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, name="parent", daemon=True).start()
    work(parse(values), rank=0, world=1, report=None)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(EXIT_CODE)


if __name__ == "__main__":
    main()
