"""The commands' argument parser: no abbreviations, and a hint at what a misspelt word may mean."""

import argparse
import re
from typing import Any, NoReturn

from agentd.suggest import did_you_mean
from agentd.terminal import say_lines

_CHOICE = re.compile(r"invalid choice: '(?P<word>.*)' \(choose from (?P<known>.*)\)\s*$", re.S)
_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """As argparse's own, where `--since` is never taken for `--since-id`.

    An abbreviation would mean something else once a second option begins alike.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, with what may have been meant, and exit 2."""
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        if message.startswith(_UNKNOWN):
            options = [o for action in self._actions for o in action.option_strings if len(o) > 2]
            words = message.removeprefix(_UNKNOWN).split()
            wrong = [word.partition("=")[0] for word in words if word.startswith("-")]
            return next(filter(None, (did_you_mean(word, options) for word in wrong)), "")
        if found := _CHOICE.search(message):
            return did_you_mean(found["word"], re.findall(r"[^\s',]+", found["known"]))
        return ""

    def _print_message(self, message: str, file: Any = None) -> None:
        # The words of a person, or of a script with a file's name, stand in it.
        if message:
            say_lines(message.removesuffix("\n"), file=file)
