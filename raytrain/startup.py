"""How a process of ours starts, and ends: it says little, is sooner ready, and sooner gone."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import threading
import warnings
from contextlib import suppress
from typing import NoReturn

THRESHOLD = 50_000
"""New objects after which garbage is looked for. Python's own 700 makes it look a thousand times
while the libraries are imported: a worker's imports take 7.2 s so and 6.1 s with this (2
cores)."""


def before_imports() -> None:
    """Set what must be set before the large libraries are imported; once more does no harm."""
    gc.set_threshold(THRESHOLD, 10, 10)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What cuBLAS needs to give the same bits every time; read when its first product is computed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("transformers", "diffusers"):
        os.environ.setdefault(f"{name.upper()}_VERBOSITY", "error")
    for name in ("DeepSpeed", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet() -> None:
    """Import the libraries that every model needs, and silence their progress bars and notices;
    errors and our lines stay."""
    before_imports()
    _import_bitsandbytes()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def _import_bitsandbytes() -> None:
    """Import bitsandbytes, which diffusers would, but without PyTorch's compiler:
    that alone takes 0.9 s.

    It compiles two functions, for devices it has no kernels for, and calls them as they are where
    that fails.
    """
    import torch

    compile_function = torch.compile
    torch.compile = lambda function, **_: function  # type: ignore[assignment]
    try:
        with suppress(ImportError):  # whoever needs it will say so
            import bitsandbytes  # noqa: F401
    finally:
        torch.compile = compile_function


def in_ray() -> bool:
    """Tell whether this process is in a Ray; one that is not does not import it for that."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def leave(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but without taking its objects apart,
    which takes 1.5 s with all libraries loaded."""
    # Waits for threads, as the interpreter does at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the descriptor was closed
        with suppress(BrokenPipeError):  # its reader has closed the pipe
            stream.flush()
    os._exit(code)
