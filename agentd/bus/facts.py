"""What agents remember from one session to the next."""

from collections.abc import Mapping
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.bus.json_text import UNREADABLE, is_utf8, read_json, strict_json
from agentd.clock import Clock, iso
from agentd.errors import EventRefused, SessionFailed

REMEMBERED = "remembered:"  # begins the keys of what a model remembers: None forgets one


class AgentFacts:
    """The facts of one database."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self._clock = clock

    def of(self, agent: str) -> dict[str, Any]:
        """Return what the agent remembers.

        Raises:
            SessionFailed: somebody wrote something there that cannot be read.
        """
        found = {}
        for key, value in self.db.read(sql.FACTS, (agent,), "key, value"):
            try:
                if isinstance(key, bytes):
                    raise ValueError("its key is not UTF-8")
                found[key] = read_json(value)
            except UNREADABLE as error:
                raise SessionFailed(
                    f"what it remembers cannot be read: {error}",
                    where=f"facts of {agent}, key {key!r}",
                    hint="correct or delete that row of the table `facts`",
                ) from error
        return found

    def remember(self, agent: str, facts: Mapping[str, Any]) -> None:
        """Write facts, and forget some; inside the session's closing transaction.

        Raises:
            EventRefused: a value is not JSON.
        """
        for key, value in facts.items():
            if not is_utf8(key):
                raise EventRefused("a fact's key is not UTF-8", where=f"{agent} remembers {key!r}")
            if value is None and key.startswith(REMEMBERED):
                self.db.run(sql.FORGET, (agent, key))
                continue
            text = strict_json(value, f"{agent} remembers {key}")
            self.db.run(sql.REMEMBER, (agent, key, text, iso(self._clock.now())))
