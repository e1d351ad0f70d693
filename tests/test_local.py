"""Processes of this machine: what comes back from them, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from raytrain import local
from raytrain.errors import UserError
from tests.soak._nodes import ROOT


def square(number: int, *, plus: int = 0) -> int:
    return number * number + plus


def refuse() -> None:
    raise UserError("A number must be even, got 3.")


class OddError(Exception):
    """One that cannot be made again from its text."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def odd() -> None:
    raise OddError(1, 2)


def die(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_loudly() -> None:
    print("asleep", flush=True)
    time.sleep(3600)


def test_calls_return_or_raise_what_the_function_does() -> None:
    with local.Process("tests.test_local") as process:
        assert process.call(square, 3, plus=1) == 10
        with pytest.raises(UserError, match="got 3") as raised:
            process.call(refuse)
        assert "in refuse" in raised.value.__notes__[0]
        with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
            process.call(odd)
        assert process.call(os.getpid) != os.getpid()


def test_a_dead_process_says_how_it_ended_and_a_silent_one_its_last_words() -> None:
    with local.Process(silent=True) as process:
        for _ in range(2):  # asked again, it is still dead
            with pytest.raises(
                local.Died, match=r"(?s)SIGKILL, after it had said:\nno more memory"
            ):
                process.call(die, "no more memory")


def test_an_idle_process_is_taken_once_and_a_dead_one_never(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with local.Machine() as machine:
        machine.reserve("sums", "tests.test_local", "json", silent=True)
        machine.reserve("sums", "tests.test_local")  # one is idle already
        with machine.take("sums", silent=True) as first, machine.take("sums") as second:
            pids = {process.call(os.getpid) for process in (first, second)}
            first.call(print, "unheard")
            machine.give_back("sums", first)
            with machine.take("sums") as again:
                assert again is first
                again.call(print, "heard", flush=True)
                with pytest.raises(local.Died):
                    again.call(die, "aloud")
                machine.give_back("sums", again)
                with machine.take("sums", silent=True) as new:
                    assert new is not first
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))
    said = capfd.readouterr()
    assert (said.out, said.err) == ("heard\n", "aloud\n")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_process_ends_with_its_command_and_takes_no_part_in_its_interrupt(
    tmp_path: Path, end: signal.Signals
) -> None:
    script = (
        "import os\nfrom raytrain import local\nfrom tests.test_local import sleep_loudly\n"
        "process = local.Process()\n"
        "print(process.call(os.getpid), flush=True)\nprocess.call(sleep_loudly)\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert command.stdout is not None
    child = psutil.Process(int(command.stdout.readline()))
    assert (
        command.stdout.readline() == "asleep\n"
    )  # said by the process: the command waits for it now
    os.killpg(command.pid, end)
    _, said = command.communicate(timeout=120)
    child.wait(timeout=120)
    assert said.count("KeyboardInterrupt") == (end == signal.SIGINT)
