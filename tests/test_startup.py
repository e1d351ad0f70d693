"""How a process starts, and ends."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_leaves_nothing_undone(code: int) -> None:
    done = run(f"""
import atexit, threading, time
said = threading.Event()
from concurrent.futures import ThreadPoolExecutor
from raytrain.startup import leave
atexit.register(print, "third", end="")
ThreadPoolExecutor(1).submit(lambda: (said.wait(), time.sleep(0.1), print("second")))
threading.Thread(target=lambda: (time.sleep(0.1), print("first"), said.set())).start()
leave({code})
""")
    assert (done.returncode, done.stdout, done.stderr) == (code, "first\nsecond\nthird", "")


@pytest.mark.parametrize(
    ("output", "code", "told"),
    [("| true", 2, ""), (">&-", 2, ""), ("> /dev/full", 120, "No space left on device")],
)
def test_output_that_cannot_be_written_is_told_where_someone_wanted_it(
    output: str, code: int, told: str
) -> None:
    script = "import time; from raytrain.startup import leave; print(1); time.sleep(0.5); leave(2)"
    command = (
        f"unset PYTHONUNBUFFERED; {sys.executable} -c '{script}' {output}; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert bool(told) == bool(done.stderr)


def test_bitsandbytes_comes_without_the_compiler_and_the_compiler_stays() -> None:
    done = run("""
import sys, torch
compile_function = torch.compile
from raytrain.startup import quiet
quiet()
assert torch.compile is compile_function
assert "torch._inductor.lowering" not in sys.modules
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
weight = torch.randn(64, 64)
print(float((dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")) - weight).abs().mean()))
""")
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 0.1
