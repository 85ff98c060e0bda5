"""The commands' argument parser: no abbreviations, and a hint at what a misspelt word may mean."""

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

from agentd.config.suggest import did_you_mean, nearest
from agentd.terminal import plain, say_lines

_CHOICE = re.compile(r"invalid choice: '(?P<word>.*)' \(choose from (?P<known>.*)\)\s*$", re.S)
_OPTION = re.compile(r"-{1,2}[^\W\d]")  # neither a negative number nor a dash alone


class Parser(argparse.ArgumentParser):
    """As argparse's own, where `--since` is never taken for `--since-id`.

    An abbreviation would mean something else once a second option begins alike.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self._words: list[str] = []

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, with what may have been meant, and exit 2.

        An option that does not exist is told before what comes after it: its value may be what
        argparse stumbled over.
        """
        unknown = self._unknown_options(message)
        if unknown and not message.startswith("unrecognized arguments"):
            message = f"unrecognized arguments: {' '.join(unknown)}"
        super().error(plain(message + self._meant(message, unknown)))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; keeps the words, since it may stumble over an option's value first."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def _unknown_options(self, message: str) -> list[str]:
        """Return the options that do not exist, up to the word that is no choice."""
        found = _CHOICE.search(message)
        ends = {"--", *([found["word"]] if found else ())}
        words = takewhile(lambda word: word not in ends, self._words)
        names = [word.partition("=")[0] for word in words if _OPTION.match(word)]
        known, short = self._options(), tuple(o for o in self._options() if len(o) == 2)
        return [
            name
            for name in names
            if name not in known and (name.startswith("--") or not name.startswith(short))
        ]

    def _meant(self, message: str, unknown: Sequence[str]) -> str:
        if unknown:
            # Without their dashes: these would make any two options alike.
            long = [option[2:] for option in self._options() if len(option) > 2]
            like = nearest(unknown[0].lstrip("-"), long)
            return "" if like is None else f'; did you mean "--{like}"?'
        if found := _CHOICE.search(message):
            return did_you_mean(found["word"], re.findall(r"[^\s',]+", found["known"]))
        return ""

    def _print_message(self, message: str, file: Any = None) -> None:
        # The words of a person, or of a script with a file's name, stand in it.
        if message:
            say_lines(message.removesuffix("\n"), file=file)
