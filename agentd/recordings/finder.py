"""Finds in a recording's texts what is a secret, and with `scrub` what is a name."""

import getpass
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agentd.secret_rules import (
    EMAIL,
    KEY_BLOCK,
    KEY_LINE,
    LEAST,
    NAME_LEAST,
    NO_NAMES,
    NOBODY,
    PERSONAL_FOLDER,
    PLAIN,
    RULES,
    SETTING,
)


def same_length(word: str, text: str) -> str:
    """Return as many characters as `text` has, of `word` again and again; line ends stay."""
    filled = (word * (len(text) // len(word) + 1))[: len(text)]
    return "".join("\n" if c == "\n" else f for c, f in zip(text, filled, strict=True))


class Key(str):
    """A key of JSON."""


class Named(str):
    """A text that stands under a telling key, such as `password`."""


def masked(text: str) -> str:
    """Return what is written in the place of a secret; a placeholder stays."""
    if text.startswith("redacted") or set(text) <= set("*x.<>${}[]"):
        return text
    return same_length("redacted", text)


@dataclass(frozen=True)
class Change:
    """What is put in the place of a secret, and by which rule."""

    instead: str
    rule: str


@dataclass
class Finder:
    """Collects what is to be replaced.

    A secret is replaced wherever it stands. A plain word that is one is so in its own place, and in
    others only if nothing else is called by it: see `settle`.
    """

    scrub: bool
    found: dict[str, Change] = field(default_factory=dict)
    words: dict[str, Change] = field(default_factory=dict)  # only where they stand alone
    plain: dict[str, str] = field(default_factory=dict)  # words that are secrets, by rule

    def __post_init__(self) -> None:
        if not self.scrub:
            return
        home, host = Path.home(), socket.gethostname()
        for name in (getpass.getuser(), home.name):
            self._word("user name", name, "user")
        for name in (host, host.partition(".")[0]):
            self._word("host name", name, "host")

    def note(self, rule: str, secret: str) -> bool:
        """Remember a secret; False for what is none, or was one."""
        if len(secret) < LEAST or masked(secret) == secret:
            return False
        self.found.setdefault(secret, Change(masked(secret), rule))
        return True

    def finds(self, text: str) -> bool:
        """Find secrets in a text; say whether there are any that were not found before."""
        hit = False
        found = [("named secret", str(text))] if isinstance(text, Named) else []
        for rule, pattern in RULES.items():
            found += [(rule, match[1]) for match in pattern.finditer(text)]
        for rule, secret in found:
            if PLAIN.fullmatch(secret) is None:
                hit |= self.note(rule, secret)
            elif rule != SETTING and len(secret) >= LEAST and masked(secret) != secret:
                self.plain.setdefault(secret, rule)
                hit = True
        for block in KEY_BLOCK.finditer(text):
            for line in KEY_LINE.finditer(block[1]):
                hit |= self.note("private key", line[0])
        return self._personal(text) or hit if self.scrub else hit

    def settle(self, said: Iterable[str]) -> None:
        """Let plain words be replaced wherever they stand alone, but those that are `said`."""
        spoken = {word for text in said for word in re.findall(r"[A-Za-z0-9]+", text)}
        for secret, rule in self.plain.items():
            parts = re.findall(r"[A-Za-z]+", secret)
            if parts and not spoken.intersection(parts):
                self.words.setdefault(secret, Change(masked(secret), rule))

    def _personal(self, text: str) -> bool:
        hit = False
        for match in EMAIL.finditer(text):
            if not NOBODY.search(match[0]):
                masked = re.sub(r"\w", "x", match[0])
                self.found.setdefault(match[0], Change(masked, "e-mail address"))
                hit = True
        for match in PERSONAL_FOLDER.finditer(text):
            hit |= self._word("user name", match[1], "user")
        return hit

    def _word(self, rule: str, name: str, word: str) -> bool:
        if len(name) < NAME_LEAST or name in NO_NAMES or set(name) <= set(word):
            return False
        self.words.setdefault(name, Change(same_length(word, name), rule))
        return True


def alone(word: str) -> str:
    """Return a pattern that matches the word, but not inside another one."""
    return rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])"
