"""Token authentication, with a token file of our own.

Whoever reaches an open Ray port can run code on the machine, so every cluster of ours asks for a
token. Ray's own default file, `~/.ray/auth_token`, is shared by every Ray project of a user; a
file of our own keeps two projects from entering each other's clusters. Ray reads the mode once,
when it is imported, and sends no token at all unless the mode is set: hence `enable`, to be called
before anything talks to Ray.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ClusterError

PATH_VARIABLE = "RAYTRAIN_TOKEN_PATH"
DEFAULT_PATH = "~/.config/raytrain/token"


def token_path(environment: Mapping[str, str] | None = None) -> Path:
    """Where this project's token lives: `RAYTRAIN_TOKEN_PATH`, else `~/.config/raytrain/token`."""
    chosen = (os.environ if environment is None else environment).get(
        PATH_VARIABLE
    ) or DEFAULT_PATH
    return Path(chosen).expanduser().absolute()


def ensure_token(path: Path) -> None:
    """Create a private file with a random token unless there is one;
    refuse an empty or a readable-by-others one."""
    if not path.exists():
        _create(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ClusterError(
            f"The token file must be readable by its owner alone, but {path} has mode {mode:04o}: "
            f"any user of this machine could run code on your cluster. Run `chmod 600 {path}`, or "
            "delete the file to get a fresh token."
        )
    if not path.read_text().strip():
        raise ClusterError(
            f"The token file must hold a token, but {path} is empty: Ray would abort. Delete the "
            "file to get a fresh token."
        )


def _create(path: Path) -> None:
    """Write a token next to `path` and link it into place: two processes that start together agree
    on one token."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".token-")  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was faster; its token is as good
    finally:
        os.unlink(temporary)


def enable() -> None:
    """Turn token authentication on for this process and its children.

    What the environment already sets wins, because inside a submitted job they name that cluster's
    token: `RAY_AUTH_MODE`, `RAY_AUTH_TOKEN` and `RAY_AUTH_TOKEN_PATH` are only filled in, never
    replaced. A process that is already connected is left as it is.
    """
    if _connected():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            path = token_path()
            ensure_token(path)
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
        _require_readable(Path(os.environ["RAY_AUTH_TOKEN_PATH"]))
    _refresh_ray()


def describe() -> str:
    """Where the token in use comes from, for messages; never the token itself."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or "no token file"


def bearer() -> dict[str, str]:
    """The HTTP header that carries the token; empty when authentication is off."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN") or Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    return {"Authorization": f"Bearer {token.strip()}"}


def _require_readable(path: Path) -> None:
    """Ray aborts the whole process when its token file is missing; say so first, in words."""
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ClusterError(
            f"RAY_AUTH_TOKEN_PATH must name a readable file, but it is {path}: Ray cannot "
            f"authenticate. Correct the variable, or unset it to use {token_path()}."
        )


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized())


def _refresh_ray() -> None:
    """Make a Ray that was imported earlier read the environment again;
    it caches both the mode and the token."""
    raylet = sys.modules.get("ray._raylet")
    if raylet is not None:
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
