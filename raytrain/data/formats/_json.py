"""JSON values as bytes, whatever bytes the names in them have."""

from __future__ import annotations

import json
from typing import Any


def dump(value: Any) -> bytes:
    """Return a value as JSON in UTF-8; names that are no UTF-8 are spelled with escapes."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
