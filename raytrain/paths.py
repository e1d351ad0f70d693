"""What paths and URIs name, without looking into them."""

from __future__ import annotations

import os


def same(one: str, other: str) -> bool:
    """Return whether two paths or URIs name one place, links followed."""
    return _place(one) == _place(other)


def inside(uri: str, folder: str) -> bool:
    """Return whether a path or URI is a folder, or in it.

    >>> inside("s3://pictures/cats/a.png", "s3://pictures/cat")
    False
    """
    return f"{_place(uri)}/".startswith(f"{_place(folder)}/")


def _place(uri: str) -> str:
    path = uri.removeprefix("file://")
    if "://" in path:
        return path.partition("?")[0].rstrip("/")
    return os.path.realpath(path)
