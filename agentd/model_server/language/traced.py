"""Strings that remember which of their characters a chat template wrote itself.

All else in them came from outside. What is not traced here, such as `"{}".format(text)`,
gives a plain string, which is taken for text from outside: so a marker may be lost that way, but
none be forged.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

RUN = re.compile(rb"\x01+|\x00+", re.DOTALL)


class Traced(str):
    """A text with one byte for each character in `own`: 1 for those of the template's own.

    It is equal to the same text of any origin, and is used as that.
    """

    own: bytes

    def __new__(cls, text: str, own: bytes | None = None) -> "Traced":
        """Trace a text; without `own` none of it is the template's."""
        made = super().__new__(cls, text)
        made.own = bytes(len(text)) if own is None else own
        return made

    def __str__(self) -> str:  # jinja2 makes strings of all that it prints
        return self

    def __add__(self, other: str) -> str:
        return join([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return join([other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: Any) -> "Traced":
        return Traced(super().__mul__(count), self.own * count)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        parts = self.split("%s")
        given = values if isinstance(values, tuple) else (values,)
        if any("%" in part for part in parts) or len(parts) != len(given) + 1:
            return super().__mod__(values)
        return join(itertools.chain.from_iterable(zip(parts, (*given, ""), strict=True)))

    def __getitem__(self, key: Any) -> "Traced":
        own = self.own[key]
        return Traced(super().__getitem__(key), own if isinstance(own, bytes) else bytes([own]))

    def lstrip(self, characters: str | None = None, /) -> "Traced":
        """Trace what is left."""
        return self[len(self) - len(super().lstrip(characters)) :]

    def rstrip(self, characters: str | None = None, /) -> "Traced":
        """Trace what is left."""
        return self[: len(super().rstrip(characters))]

    def strip(self, characters: str | None = None, /) -> "Traced":
        """Trace what is left."""
        return self.lstrip(characters).rstrip(characters)

    def split(self, separator: str | None = None, maxsplit: Any = -1) -> list[str]:
        """Trace the parts."""
        return list(self._parts(super().split(separator, maxsplit), len(separator or "")))

    def rsplit(self, separator: str | None = None, maxsplit: Any = -1) -> list[str]:
        """Trace the parts."""
        return list(self._parts(super().rsplit(separator, maxsplit), len(separator or "")))

    def replace(self, old: str, new: str, count: Any = -1, /) -> str:
        """Trace what was not replaced, and what took a place."""
        if not old:
            return super().replace(old, new, count)
        return join(_between(self.split(old, count), new))

    def join(self, parts: Iterable[str], /) -> str:
        """Trace the parts and what stands between them."""
        return join(_between(parts, self))

    def upper(self) -> str:
        """Trace what kept its length."""
        return self._alike(super().upper())

    def lower(self) -> str:
        """Trace what kept its length."""
        return self._alike(super().lower())

    def capitalize(self) -> str:
        """Trace what kept its length."""
        return self._alike(super().capitalize())

    def title(self) -> str:
        """Trace what kept its length."""
        return self._alike(super().title())

    def _alike(self, text: str) -> str:
        return Traced(text, self.own) if len(text) == len(self) else text

    def _parts(self, parts: Iterable[str], separator: int) -> Iterator[str]:
        at = 0
        for part in parts:
            at = self.index(part, at)
            yield self[at : at + len(part)]
            at += len(part) + separator


def own(text: str) -> Traced:
    """Return a text that the template wrote."""
    return Traced(text, b"\x01" * len(text))


def join(parts: Iterable[Any]) -> str:
    """Return all parts in one; plain where all of it came from outside."""
    texts = [part if isinstance(part, str) else str(part) for part in parts]
    if not any(isinstance(text, Traced) for text in texts):
        return "".join(texts)
    own = [text.own if isinstance(text, Traced) else bytes(len(text)) for text in texts]
    return Traced("".join(texts), b"".join(own))


def runs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the text's parts, and whether each is the template's own."""
    mask = text.own if isinstance(text, Traced) else bytes(len(text))
    for found in RUN.finditer(mask):
        yield str.__getitem__(text, slice(*found.span())), found[0][0] == 1


def _between(parts: Iterable[str], between: str) -> Iterator[str]:
    return itertools.islice(
        itertools.chain.from_iterable((between, part) for part in parts), 1, None
    )
