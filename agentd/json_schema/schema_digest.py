"""The digest by which a schema is named where it was sent before."""

import hashlib
import json

DIGEST = "agentd_sha256"  # the key under which calls name it, beside `schema` or in its place


def compact(schema: object) -> bytes:
    """Return a schema as compact JSON in its own order, which is the order of an answer."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode()


def digest_of(text: bytes) -> str:
    """Return the SHA-256 of a schema's compact JSON, in hexadecimal."""
    return hashlib.sha256(text).hexdigest()
