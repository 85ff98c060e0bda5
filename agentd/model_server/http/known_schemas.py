"""Schemas that callers have sent whole and named by their digest, so that they need not again."""

import threading
from collections import OrderedDict
from typing import Any

from agentd.json_schema.schema_digest import compact, digest_of
from agentd.model_server.calls import Refused

BYTES_MAX = 4_000_000  # of all schemas together, as text; as objects they take up to 32 times that
ENTRY_BYTES = 1_000  # that each takes besides, however short it is
UNKNOWN = "unknown_schema"  # the code by which a caller knows to send it whole

Given = dict[str, Any] | bool


class KnownSchemas:
    """Schemas by digest, the least recently used forgotten first. Usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Given, int]] = OrderedDict()
        self._bytes = 0

    def schema(self, digest: str, given: Given | None) -> Given:
        """Return the schema of this digest, and keep one that is `given`.

        Raises:
            Refused: it is not known, or it is another one's digest.
        """
        param = "response_format.json_schema.agentd_sha256"
        if given is None:
            with self._lock:
                if digest in self._kept:
                    self._kept.move_to_end(digest)
                    return self._kept[digest][0]
            what = "no schema of this digest is known: send it with its schema"
            raise Refused(f"{param}: {what}", code=UNKNOWN, param=param)
        text = compact(given)
        if digest_of(text) != digest:
            raise Refused(f"{param}: is not the digest of the schema beside it", param=param)
        size = len(text) + ENTRY_BYTES
        with self._lock:
            if digest not in self._kept:
                self._kept[digest] = given, size
                self._bytes += size
            self._kept.move_to_end(digest)
            while self._bytes > BYTES_MAX:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return given
