"""The schema that an answer must fit, as calls name it: whole, or by its digest."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from agentd.json_schema.bounds import Schema
from agentd.json_schema.schema_digest import DIGEST, compact, digest_of
from agentd.llm.decision import Candidates

KEPT_MAX = 32  # of one union: most of them differ in their candidates alone, session by session

Key = tuple[frozenset[str], tuple[tuple[str, tuple[str, ...]], ...]]


class AnswerSchema:
    """A union's schema for some of its classes.

    `told`: our own server has been sent all of it; `named`: it is told the digest.
    """

    def __init__(self, schema: Schema) -> None:
        self.told, self.named = False, True
        self._schema = schema
        self._digest = ""

    def unknown(self) -> bool:
        """Whether to ask in another way, after the server did not know what was named.

        It is another process by now, or has forgotten it. Or it is of an older version than this
        worker, which knows no digests.
        """
        if self.told:
            self.told = False
        elif self.named:
            self.named = False
        else:
            return False
        return True

    def response_format(self, *, own: bool) -> dict[str, Any]:
        """Return what asks for it: of our own server by its digest alone, once it was told."""
        form: dict[str, Any] = {"name": "decision", "strict": True}
        if own and self.named:
            self._digest = self._digest or digest_of(compact(self._schema))
            form[DIGEST] = self._digest
        if not (own and self.named and self.told):
            form["schema"] = self._schema
        return {"type": "json_schema", "json_schema": form}


class AnswerSchemas:
    """The schemas of one union, by classes and candidates: the newest that were asked for."""

    def __init__(self, make: Callable[[frozenset[str], Candidates], Schema]) -> None:
        self._make = make
        self._kept: OrderedDict[Key, AnswerSchema] = OrderedDict()

    def of(self, names: frozenset[str], candidates: Candidates) -> AnswerSchema:
        """Return the schema of these classes, with these candidates in their fields."""
        key = names, tuple((field, tuple(of)) for field, of in candidates.items())
        found = self._kept.pop(key, None)
        self._kept[key] = found or AnswerSchema(self._make(names, candidates))
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return self._kept[key]
