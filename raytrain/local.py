"""Processes of this machine that call what they are told, without Ray:
what one worker needs who shares nothing with others.

    with Process("raytrain.train.worker") as process:
        process.call(function, argument)

    # the process: imports the modules, then serves calls from a socket
    python -m raytrain.local FD MODULE ...

A process imports while the command that started it does other things, ends when that command is
gone, however that ended, and takes no part in its Ctrl-C: whether work ends then is for the
command to say.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any, Self

from raytrain.startup import before_imports, quiet

ORPHAN = 76
"""Exit code of a process whose command is gone."""
SHOWN = 2000
"""Characters of a silent process's last words."""


class Died(RuntimeError):  # noqa: N818
    """A process ended in the middle of a call."""


class Process:
    """One process.

    It imports `modules`, and what their `NEEDS` name, at once; what a `silent` one prints is shown
    if it dies.
    """

    def __init__(self, *modules: str, silent: bool = False) -> None:
        self._pipe, theirs = Pipe()
        self._said: IO[bytes] | None = tempfile.TemporaryFile() if silent else None  # noqa: SIM115
        self._outputs = [_duplicate(1), _duplicate(2)] if self._said else []  # for `unmute`
        command = [sys.executable, "-m", "raytrain.local", str(theirs.fileno()), *modules]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno(), *self._outputs], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, env=_environment(),
        )  # fmt: skip
        theirs.close()
        for output in self._outputs:
            os.close(output)

    def call(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """Return what a function of a module returns there, or raise what it raises;
        raises Died when the process ends."""
        try:
            self._pipe.send((function, arguments, settings))
            raised, value = self._pipe.recv()
        except (EOFError, OSError):
            raise Died(self._last_words()) from None
        if raised:
            raise value
        return value

    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def unmute(self) -> None:
        """Show what a silent process prints from now on."""
        if self._said is not None:
            self.call(_redirect, *self._outputs)
            self._said = None

    def end(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _last_words(self) -> str:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if self._said is None:
            return how
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()[-SHOWN:]
        return f"{how}, after it had said:\n{said}\n" if said else how


MODELS, TASKS, TRAINED = "models", "tasks", "trained"
"""Roles of processes: encodes and trains; runs tasks without a model; has trained."""


class Machine:
    """The processes of a command on this machine.

    Imports take seconds, so one process does what stages need one after the other: an idle one of
    a role is taken again. What silent ones print is shown after all with `shown`.
    """

    def __init__(self, *, shown: bool = False) -> None:
        self._shown = shown
        self._idle: defaultdict[str, list[Process]] = defaultdict(list)

    def reserve(self, role: str, *modules: str, silent: bool = False) -> None:
        """Start a process for a role, where none is idle, so that it imports while nobody
        waits."""
        if not self._idle[role]:
            self._idle[role].append(self._start(*modules, silent=silent))

    def take(self, role: str, *modules: str, silent: bool = False) -> Process:
        """Return an idle process of a role, or start one."""
        while self._idle[role]:
            process = self._idle[role].pop()
            if process.alive():
                if not silent:
                    process.unmute()
                return process
            process.end()
        return self._start(*modules, silent=silent)

    def give_back(self, role: str, process: Process) -> None:
        """Keep a process for the next `take` of a role."""
        self._idle[role].append(process)

    def reuse(self, role: str, other: str) -> None:
        """Let the idle processes of a role be taken for another."""
        self._idle[other] += self._idle.pop(role, [])

    def end_idle(self, *roles: str) -> None:
        """End the idle processes of these roles, or of all."""
        for role in roles or tuple(self._idle):
            while self._idle[role]:
                self._idle[role].pop().end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_idle()

    def _start(self, *modules: str, silent: bool) -> Process:
        return Process(*modules, silent=silent and not self._shown)


def _duplicate(output: int) -> int:
    """Return a copy of an output's file descriptor; one of nowhere where it was closed."""
    try:
        return os.dup(output)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _environment() -> dict[str, str]:
    # Tensors in huge pages: encodes 1.15 times as fast on a CPU.
    return {"THP_MEM_ALLOC_ENABLE": "1", **os.environ}


def main() -> None:
    """Import what the command line names, then do calls until the command is gone."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    pipe = Connection(descriptor)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, calls), name="calls", daemon=True).start()
    before_imports()
    for module in sys.argv[2:]:
        with suppress(ImportError):  # whoever needs it will say so
            needs = getattr(importlib.import_module(module), "NEEDS", ())
            if needs:
                quiet()
            for needed in needs:
                importlib.import_module(needed)
    while True:
        pipe.send(_answer(calls.get()))


def free() -> None:
    """Free the memory of what is no longer used, in this process."""
    gc.collect()
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
        cuda.empty_cache()


def _redirect(stdout: int, stderr: int) -> None:
    """Print to other file descriptors from now on."""
    for stream, descriptor in ((sys.stdout, stdout), (sys.stderr, stderr)):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def _receive(pipe: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    while True:
        try:
            calls.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(ORPHAN)


def _answer(call: bytes) -> tuple[bool, Any]:
    try:
        function, arguments, settings = pickle.loads(call)
        return False, function(*arguments, **settings)
    except Exception as error:  # raised again where the call was made
        error.add_note(f"In a process of its own:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception that does not travel; its text does
            return True, RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return True, error


if __name__ == "__main__":
    main()
