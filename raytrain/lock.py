"""One command at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from raytrain import storage
from raytrain.errors import UserError


@contextmanager
def locked(folder: str, what: str, harm: str) -> Iterator[None]:
    """Hold a folder for the length of the block; a second command there is a UserError that says
    `what` runs already and the `harm` of two.

    A kill frees it. An object store has no locks: there two are not noticed.
    """
    if not storage.is_local(folder):
        yield
        return
    path = storage.resolve(folder)[1]
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "lock"), "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{what} in {path!r}; {harm}. Wait for it, or choose another output folder."
            ) from None
        yield
