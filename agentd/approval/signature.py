"""What only a person says, signed: the database alone proves nothing, as workers write to it.

The key lies in a folder that no worker and no tool may read. A person's commands sign with it, and
the supervisor, for what happened because nobody answered. Workers ask the supervisor.

A signature is `NONCE.HMAC` in the payload's field `mac`: HMAC-SHA256 over the canonical JSON of
type, target, payload without it, and nonce.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agentd.errors import StorageError
from agentd.events import NewEvent
from agentd.json_schema.canonical import canonical, json_digest
from agentd.paths import Paths, private_folder
from agentd.whole import read_start, write_whole

KEY = "person.key"
KEY_BYTES = 32
NONCE_BYTES = 12
MAC = "mac"


def person_key(paths: Paths) -> bytes:
    """Return this home's key, made where there is none. Raises StorageError, as `private_key`."""
    return private_key(paths, KEY, "the key of a person's answers")


def private_key(paths: Paths, name: str, what: str) -> bytes:
    """Return one of this home's keys, made where there is none; `what` it is, for errors.

    Raises:
        StorageError: it cannot be read or made, or is no key, or others can read it.
    """
    file = paths.keys / name
    try:
        with suppress(FileExistsError):
            if not os.path.lexists(file):
                private_folder(paths.keys)
                paths.keys.chmod(0o700)
                write_whole(file, secrets.token_bytes(KEY_BYTES), new=True)
        status, key = file.lstat(), read_start(file, KEY_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{what} cannot be used: {error.strerror}", where=str(file)) from error
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        why, hint = "others can read or change it", f"chmod 600 {file}"
    elif len(key) != KEY_BYTES:
        why, hint = "it is no key", "remove it: a new one is made, and what it signed is refused"
    else:
        return key
    raise StorageError(f"{what} cannot be used: {why}", where=str(file), hint=hint)


def signed(event: NewEvent, key: bytes) -> NewEvent:
    """Return the event with its signature."""
    nonce = secrets.token_hex(NONCE_BYTES)
    payload = {name: value for name, value in event.payload.items() if name != MAC}
    mac = _hmac(key, event.event_type, event.target, payload, nonce)
    return replace(event, payload={**payload, MAC: f"{nonce}.{mac}"})


def digest(event_type: str, target: str | None, payload: Mapping[str, Any]) -> str:
    """Return what two readers of an event's row compare: they may have read different ones."""
    return json_digest([event_type, target, dict(payload)])


def forged(
    event_type: str, target: str | None, payload: Mapping[str, Any], key: bytes
) -> str | None:
    """Say why an event is not what a person's command wrote; None: it is."""
    nonce, dot, mac = str(payload.get(MAC, "")).partition(".")
    if not dot:
        return "is not signed: only a person answers, by `agentd answer`"
    plain = {name: value for name, value in payload.items() if name != MAC}
    right = _hmac(key, event_type, target, plain, nonce)
    if hmac.compare_digest(mac.encode("utf-8", "surrogatepass"), right.encode()):
        return None
    return "was forged or changed: its signature is wrong"


def _hmac(
    key: bytes, event_type: str, target: str | None, payload: Mapping[str, Any], nonce: str
) -> str:
    text = canonical([event_type, target, dict(payload), nonce])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
