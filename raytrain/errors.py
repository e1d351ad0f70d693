"""The one exception for a user's mistake: what rule was broken, by what, with which consequence,
and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix.

    Jobs print its message alone (no traceback) and exit with code 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name closest to a misspelt one, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(what: str, name: str, valid: Iterable[str]) -> UserError:
    """Build the error for a name outside a closed set: the name,
    the nearest valid one and the allowed values."""
    allowed = sorted(valid)
    guess = nearest(name, allowed)
    hint = f" Did you mean {guess!r}?" if guess else ""
    return UserError(f"{what} {name!r} does not exist.{hint} Allowed: {', '.join(allowed)}.")


class Diverged(UserError):  # noqa: N818
    """The loss stopped being a number; raised before the optimizer could use it."""
