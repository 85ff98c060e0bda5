"""The link that lets a browser in: made by `agentd ui`, taken once by the page's process.

Whoever can read the home's keys may make one: a person's commands, and the supervisor, which hands
the page's process its key. No link is kept anywhere, and the daemon is not asked for one.
"""

import hashlib
import hmac
import secrets
from datetime import datetime

from agentd.approval.signature import private_key
from agentd.paths import Paths

KEY = "ui.key"
LIFE_S = 120.0
NONCE_BYTES = 12
ENTER = "enter"  # of the link's path


def page_key(paths: Paths) -> bytes:
    """Return the key of links and cookies, made where there is none. Raises StorageError."""
    return private_key(paths, KEY, "the key of the page")


def once(key: bytes, now: datetime) -> str:
    """Return the word of a link that holds for `LIFE_S` seconds."""
    word = f"{round(now.timestamp() * 1000)}.{secrets.token_hex(NONCE_BYTES)}"
    return f"{word}.{mac(key, ENTER, word)}"


def made_at(key: bytes, text: str) -> float | None:
    """Return when a link's word was made, as a time stamp; None: it was not made with this key."""
    word, _, shown = text.rpartition(".")
    if not same(shown, mac(key, ENTER, word)):
        return None
    return int(word.partition(".")[0]) / 1000


def mac(key: bytes, purpose: str, text: str) -> str:
    """Return what proves that who holds the key wrote this text for this purpose."""
    return hmac.new(key, f"{purpose} {text}".encode(), hashlib.sha256).hexdigest()


def same(shown: str, right: str) -> bool:
    """Compare what was shown in a time that tells nothing."""
    return hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), right.encode())
