"""The file of a new agent of configuration: what it looks at, when, and what comes out."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentd.config.agent import AgentConfig, validate_agent
from agentd.config.toml import config_error, parse_toml
from agentd.config.watched import Pattern
from agentd.errors import UsageError
from agentd.events import FILE
from agentd.paths import expanded

DAILY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
LOOKS = ("folder", "watch", "feed", "mail", "page", "events")
BY_ITSELF = frozenset({"watch", "events"})  # looks whenever something comes
OUTS = ("labels", "ranking", "list")
READERS = {".pdf": "ReadPdf", **dict.fromkeys((".txt", ".md", ".csv", ".log"), "ReadFile")}
EXAMPLES: Mapping[str, str] = {
    "folder": "~/notes",
    "watch": "~/Downloads/*.pdf",
    "feed": "https://example.org/feed.xml",
    "mail": "~/Mail, or imaps://ada@imap.example.org/INBOX",
    "page": "https://example.org/news",
    "events": "note.changed",
}


@dataclass(frozen=True)
class Draft:
    """What a person wants of a new agent."""

    look: str  # one of `LOOKS`
    where: str
    when: str  # "1h", "09:00", or nothing: when something happens
    out: str  # one of `OUTS`
    words: tuple[str, ...] = ()  # the labels, or the interests


def asked(ask: Callable[[str], str]) -> Draft:
    """Ask three questions, each until there is an answer."""
    look = _one_of(ask, "What should it look at?", LOOKS)
    where = _said(ask, f"Which? (such as {EXAMPLES[look]})")
    when = ""
    if look not in BY_ITSELF:
        when = _said(ask, "When? (such as 1h, or 09:00 for each day)", "1h")
    outs = OUTS if look in ("feed", "mail", "folder") else ("labels", "list")
    out = _one_of(ask, "What should come out?", outs)
    words: tuple[str, ...] = ()
    if out != "list":
        what = "Labels" if out == "labels" else "Interests"
        words = listed_words(_said(ask, f"{what}, with commas between (such as work, private)"))
    return Draft(look, where, when, out, words)


def listed_words(text: str) -> tuple[str, ...]:
    """Return what stands between commas."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _said(ask: Callable[[str], str], question: str, default: str = "") -> str:
    shown = f"{question} [{default}] " if default else f"{question} "
    while not (answer := ask(shown).strip() or default):
        pass
    return answer


def _one_of(ask: Callable[[str], str], question: str, known: Sequence[str]) -> str:
    while True:
        answer = ask(f"{question} {', '.join(known)}: ").strip().lower()
        found = [word for word in known if answer and word.startswith(answer)]
        if len(found) == 1:
            return found[0]


@dataclass(frozen=True)
class _Look:
    """What is written of what an agent looks at."""

    first: str = ""
    each: str = ""
    facts: tuple[str, ...] = ()
    top: tuple[str, ...] = ()  # lines above the tables
    permissions: tuple[str, ...] = ()
    more: str = ""


def text_of(name: str, draft: Draft) -> str:
    """Return the file's text.

    Raises:
        UsageError: no such agent can be.
    """
    look = _look(draft)
    if draft.out == "ranking" and not look.each:
        raise UsageError(f"there is nothing to rank in {draft.where}", hint="use --labels")
    lines = [
        "#:schema ../agent.schema.json",
        "enabled = true",
        'agent = "task" # made of configuration alone',
        f"description = {_text(f'Looks at {draft.where}.')}",
        'done = "Each row is sorted."',
        *look.top,
        *_when(draft),
        "",
        "[params]",
    ]
    if look.first:
        lines += [f"first = [{look.first}]"]
    if look.each:
        lines += [f'each = "{look.each}"', 'skip_if = "nothing new"']
    if draft.out == "ranking":
        lines += [f"interests = [{', '.join(map(_text, draft.words))}]"]
    lines += [f'publish = "{name}.found"', "", "[result] # the columns that you see", *look.facts]
    if draft.out == "labels":
        phrases = ", ".join(f"{_text(w)} = {_text(f'About {w}: ' + chr(34))}" for w in draft.words)
        lines += [
            "# A text of its kind could stand after a phrase. Better ones make more labels right.",
            f"kind = {{ phrases = {{ {phrases} }} }}",
        ]
    if look.permissions:
        lines += ["", "[permissions] # nothing is allowed unless listed", *look.permissions]
    text = "\n".join(lines) + "\n" + look.more
    _check(text, name)
    return text


def _look(draft: Draft) -> _Look:
    where = draft.where
    match draft.look:
        case "events" if where == FILE:
            hint = "take --watch"
            raise UsageError("comes to who watches a folder alone", where=where, hint=hint)
        case "events":
            return _Look(
                facts=('said = { from = "event.text" }',), top=(f"subscribe = [{_text(where)}]",)
            )
        case "folder":
            folder, read = expanded(where), (f"read = [{_text(where)}]",)
            if not folder.is_dir():
                raise UsageError("there is no such folder", where=where)
            first, facts = f"{{ ListFiles = {_text(where)} }}", ('file = { from = "name" }',)
            return _Look(first, "ListFiles.entries", facts, permissions=read)
        case "watch":
            return _watched(where, draft.out)
        case "mail" if "://" in where:
            more = f'\n[accounts.mail]\nurl = {_text(where)}\npassword = "secret:{_SECRET}"\n'
            return _Look('{ ReadMail = "mail" }', "ReadMail.messages", _MAIL, more=more)
        case "mail":
            first, read = f"{{ ReadMail = {_text(where)} }}", (f"read = [{_text(where)}]",)
            return _Look(first, "ReadMail.messages", _MAIL, permissions=read)
    parts = urlsplit(where)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("is no address of the web", where=where, hint="such as https://...")
    net = (f"net = [{_text(parts.netloc.rpartition('@')[2])}]",)
    if draft.look == "feed":
        facts = ('title = { from = "title", link = "link" }',)
        return _Look(f"{{ ReadFeed = {_text(where)} }}", "ReadFeed.items", facts, permissions=net)
    facts = ('page = { from = "title" }',)
    return _Look(f"{{ ReadPage = {_text(where)} }}", "", facts, permissions=net)


def _watched(where: str, out: str) -> _Look:
    """Return what is written of new files; where they are to be labelled, they are read."""
    try:
        pattern = Pattern.of(where)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not pattern.folder.is_dir():
        raise UsageError("there is no such folder", where=str(pattern.folder))
    kind = Path(where).suffix.lower()
    if out == "labels" and kind not in READERS:
        known = ", ".join(f"*{suffix}" for suffix in READERS)
        raise UsageError("is of files that may not be read", where=where, hint=f"watch {known}")
    first = f'{{ {READERS[kind]} = "{{path}}" }}' if out == "labels" else ""
    return _Look(
        first,
        facts=('file = { from = "event.name" }', 'folder = { from = "event.folder" }'),
        top=(f"watch = [{_text(where)}]",),
        permissions=(f"read = [{_text(str(pattern.folder))}]",),
    )


_SECRET = "mail"
_MAIL = ('subject = { from = "subject" }', 'sender = { from = "from" }')


def _when(draft: Draft) -> list[str]:
    if not draft.when:
        return []
    if daily := DAILY.fullmatch(draft.when):
        return [f'schedule = {{ cron = "{int(daily[2])} {int(daily[1])} * * *" }}']
    return [f"schedule = {{ every = {_text(draft.when)} }}"]


def _check(text: str, name: str) -> None:
    """Look at the file as `agentd check` will: what a person said may be no label, or no time."""
    from pydantic import ValidationError

    from agentd.task_agent.task_params import TaskParams

    where = expanded(f"{name}.toml")
    config: AgentConfig = validate_agent(parse_toml(text.encode(), where), where)
    try:
        TaskParams.model_validate({**config.params, "result": config.result})
    except ValidationError as error:
        raise config_error(error, where, "params.", model=TaskParams) from error


def _text(text: str) -> str:
    """Return a TOML string: as JSON writes it, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
