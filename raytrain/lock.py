"""One command at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from raytrain import storage
from raytrain.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""How a file system says that it has no locks."""


@contextmanager
def locked(folder: str, what: str, harm: str, name: str = "lock") -> Iterator[None]:
    """Hold a folder for the length of the block; a second command there is a UserError that says
    `what` runs already and the `harm` of two. `name` is the file that is held.

    A kill frees it. An object store has no locks, nor have some file systems: there two are not
    noticed. A folder that cannot be written to is a UserError too.
    """
    if not storage.is_local(folder):
        yield
        return
    path = storage.resolve(folder)[1]
    try:
        os.makedirs(path, exist_ok=True)
        file = open(os.path.join(path, name), "w", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"The output folder must be writable, got {path!r}: {error.strerror}. Nothing was "
            "done. Make it writable, or choose another."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{what} in {path!r}; {harm}. Wait for it, or choose another output folder."
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
