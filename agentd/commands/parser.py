"""The commands' argument parser: no abbreviations, and a hint at what a misspelt word may mean."""

import argparse
import re
import sys
from typing import Any, NoReturn

from agentd.config.suggest import did_you_mean
from agentd.terminal import say_lines

_CHOICE = re.compile(r"invalid choice: '(?P<word>.*)' \(choose from (?P<known>.*)\)\s*$", re.S)


class Parser(argparse.ArgumentParser):
    """As argparse's own, where `--since` is never taken for `--since-id`.

    An abbreviation would mean something else once a second option begins alike.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self._words: list[str] = []

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, with what may have been meant, and exit 2."""
        super().error(message + self._meant(message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; keeps the words, since it may stumble over an option's value first."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _meant(self, message: str) -> str:
        options = [o for action in self._actions for o in action.option_strings if len(o) > 2]
        names = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        if hints := [did_you_mean(name, options) for name in names if name not in options]:
            return hints[0]
        if found := _CHOICE.search(message):
            return did_you_mean(found["word"], re.findall(r"[^\s',]+", found["known"]))
        return ""

    def _print_message(self, message: str, file: Any = None) -> None:
        # The words of a person, or of a script with a file's name, stand in it.
        if message:
            say_lines(message.removesuffix("\n"), file=file)
