"""What a click does: a command of `agentd`, which the supervisor runs for its person."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.errors import AgentdError, UsageError
from agentd.ui.page_reader import PageReader

MESSAGES_MAX = 100  # that wait for their page
WORDS_MAX = 16_000  # characters of one field

Form = Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """What a command came to: its exit code (None: not done in time), its document, its error."""

    code: int | None
    document: Any
    error: str

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.code == 0


class Acting:
    """Carries out what forms say. `messages` are shown once, on the page that comes next."""

    def __init__(self, reading: PageReader) -> None:
        self._reading = reading
        self._messages: dict[str, str] = {}

    async def act(self, argv: Sequence[str]) -> Done:
        """Let the supervisor run a command as if its person had typed it, with `--json`.

        Raises:
            AgentdError: it is none that a page may stand for, or the supervisor is gone.
        """
        found = await self._reading.answer({"ask": "act", "argv": list(argv)})
        return Done(found.get("code"), found.get("document"), str(found.get("error") or ""))

    def keep(self, message: str) -> str:
        """Keep a message for the next page; return the word by which it finds it."""
        while len(self._messages) >= MESSAGES_MAX:
            del self._messages[next(iter(self._messages))]
        word = secrets.token_urlsafe(12)
        self._messages[word] = message
        return word

    def take(self, word: str) -> str:
        """Return a message that was kept, once; "" where there is none."""
        return self._messages.pop(word, "")


def argv_of(form: Form) -> list[str]:
    """Return the command that a form stands for.

    Raises:
        UsageError: it stands for none, or lacks a field.
    """
    do = form.get("do", "")
    if do not in DOES:
        raise UsageError("this form stands for no command", where=do[:40])
    try:
        words = DOES[do](form)
    except KeyError as error:
        raise UsageError("a field of this form is missing", where=str(error)) from error
    if any(len(word) > WORDS_MAX for word in words):
        raise UsageError(f"a field is longer than {WORDS_MAX} characters", where=do)
    return words


def _answer(form: Form) -> list[str]:
    # What the page showed: a yes to anything else is none.
    words = f"{form['words']} {form.get('why', '')}".strip()
    return ["answer", "--asked", form["asked"], "--", form["id"], *words.split(" ")]


def _ask(form: Form) -> list[str]:
    thread = ["--thread", form["thread"]] if form.get("thread") else []
    name = [form["agent"]] if form.get("agent") else []
    return ["ask", "--no-wait", *thread, "--", *name, form["question"]]


def _correct(form: Form) -> list[str]:
    row = ["--row", form["row"]] if form.get("row") else []
    return ["correct", *row, "--", form["id"], form["field"], form["value"]]


def _of_agent(form: Form) -> list[str]:
    return [form["do"], "--", form["agent"]]


# By the field `do` of a form. Words of people stand behind `--`, so that none is an option.
DOES: Mapping[str, Callable[[Form], list[str]]] = {
    "answer": _answer,
    "ask": _ask,
    "correct": _correct,
    **dict.fromkeys(("trigger", "pause", "resume", "enable", "disable"), _of_agent),
    "reload": lambda form: ["reload"],
    "dead-retry": lambda form: ["dead", "retry", "--", form["id"]],
    "dead-drop": lambda form: ["dead", "drop", "--", form["id"]],
}


def goes_to(done: Done, form: Form) -> str | None:
    """Return the place of what a form made, where its person is to see that next."""
    if form.get("do") == "ask" and done.ok:
        return f"/ask/{int(done.document['id'])}"
    return None


def said(done: Done, form: Form) -> str:
    """Return in a line what became of a form, for its person."""
    if done.ok:
        return form.get("said") or "Done."
    if done.error:
        return done.error
    raise AgentdError(f"the command ended with exit code {done.code}")
