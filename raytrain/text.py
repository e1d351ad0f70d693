"""Text files of users, in the encodings they come in."""

from __future__ import annotations

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def decode(content: bytes) -> str:
    """Decode UTF-8, or any Unicode encoding with a byte order mark; ValueError says what is wrong
    and what to do.

    >>> decode(b"\xff\xfea\x00")
    'a'
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is no {encoding.removesuffix('-sig').upper()} text (byte {error.start}); save it as "
            "UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError("holds NUL characters: no text; save it as UTF-8")
    return text
