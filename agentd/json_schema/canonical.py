"""JSON in one form for each value: what signatures and digests are made of."""

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """Return JSON text in which the order of keys does not count."""
    return json.dumps(value, sort_keys=True)


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
