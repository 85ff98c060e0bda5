"""Takes secrets out of a recording, and with `scrub` what tells whose machine it was.

Everything is replaced by something as long, in every place where it stands, so that the loop cuts
results at the same characters and the recording still replays. Rules find what looks like a secret;
they cannot find everything: read a recording before you share it.

A file or a repository whose bytes cannot be replaced is left out where it holds a secret.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from agentd.llm.decision import Message
from agentd.recordings.finder import Finder, Key, Named, alone, masked
from agentd.recordings.recording import (
    Fixture,
    Head,
    HeadPart,
    Page,
    Recording,
    Repository,
    Settled,
    texts_of,
)
from agentd.secret_rules import LEAST, LINE, RULES, SETTING, put, secret_places
from agentd.sessions.steps import Step

BRANCHES = 4  # texts that a pattern tries one by one
LEVELS = 16  # of its tree
Part = TypeVar("Part", bound=HeadPart)


def redact(
    recording: Recording,
    *,
    known: Iterable[str] = (),
    scrub: bool = False,
    contents: Callable[[Repository], Iterable[bytes]] = lambda _repository: (),
) -> Recording:
    """Return the recording without its secrets.

    `known` are secrets beforehand, such as the daemon's own token. `contents` gives what people
    wrote in a repository; one that holds a secret is left out, since its objects cannot change.
    """
    finder = Finder(scrub)
    for secret in known:
        finder.note("known secret", secret)
    texts = list(_strings(recording))
    for text in texts:
        finder.finds(text)
    prompts = [message["content"] for message in recording.messages]
    finder.settle([*prompts, *(text for text in texts if isinstance(text, Key))])
    repositories: dict[str, Repository] = {}
    left_out = 0
    for name, repository in recording.fixture.repositories.items():
        inside = replace(finder, found=dict(finder.found), words=dict(finder.words))
        before = Writer(finder)
        if any(
            inside.finds(text) or before.everywhere(text) != text
            for data in contents(repository)
            for text in _readings(data)
        ):
            left_out += 1
            repository = Repository(repository.head)
        repositories[name] = repository
    writer = Writer(finder)
    writer.counts["repository left out"] = left_out
    return writer.recording(recording, repositories)


class Writer:
    """Replaces what was found, everywhere, and counts the places."""

    def __init__(self, finder: Finder) -> None:
        self.counts: Counter[str] = Counter()
        self._changes = dict(finder.found)
        parts = [_any_of(sorted(self._changes, key=len, reverse=True))] if self._changes else []
        parts += [alone(word) for word in sorted(finder.words, key=len, reverse=True)]
        self._changes |= finder.words
        self._pattern = re.compile("|".join(parts)) if parts else None

    def everywhere(self, text: str) -> str:
        """Return the text without what is replaced wherever it stands."""
        return text if self._pattern is None else self._pattern.sub(self._change, text)

    def text(self, text: str) -> str:
        """Return the text with everything replaced, plain words in their place too."""
        text = self.everywhere(text)
        for rule, pattern in (*RULES.items(), (SETTING, LINE)):
            text = pattern.sub(partial(self._in_place, rule), text)
        return text

    def _change(self, match: re.Match[str]) -> str:
        change = self._changes[match[0]]
        self.counts[change.rule] += 1
        return change.instead

    def _in_place(self, rule: str, match: re.Match[str]) -> str:
        return put(match, self._mask(rule, match[1]))

    def _mask(self, rule: str, secret: str) -> str:
        instead = masked(secret)
        self.counts[rule] += instead != secret
        return instead

    def raw(self, raw: str) -> str:
        """Return a model's raw answer with everything replaced, else as it was written."""
        try:
            before = json.loads(raw)
        except (ValueError, RecursionError):  # cut off, so no decision
            return self.text(raw)
        after = self.value(before)
        return raw if after == before else json.dumps(after, ensure_ascii=False)

    def value(self, value: Any, *, named: bool = False) -> Any:
        """Return JSON with everything replaced, keys too; all of it, if its key says what it is."""
        if isinstance(value, str):
            return self._mask("named secret", self.everywhere(value)) if named else self.text(value)
        if isinstance(value, Mapping):
            secret = secret_places(value)
            return {
                self.everywhere(key): self.value(item, named=named or key in secret)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            secret = secret_places(value)
            return type(value)(
                self.value(item, named=named or at in secret) for at, item in enumerate(value)
            )
        if named and isinstance(value, int) and abs(value) >= 10 ** (LEAST - 1):
            self.counts["named secret"] += 1
            return int("1" * len(str(abs(value))))
        return value

    def recording(self, recording: Recording, repositories: Mapping[str, Repository]) -> Recording:
        """Return the recording with everything replaced."""
        steps = tuple(self._step(step) for step in recording.steps)
        fixture = recording.fixture
        files = {self.text(name): self._file(data) for name, data in fixture.files.items()}
        changed = replace(
            recording,
            head=self._head(recording.head),
            messages=tuple(self._message(m, recording.head.config) for m in recording.messages),
            steps=steps,
            texts=texts_of(steps),
            fixture=Fixture(
                {name: data for name, data in files.items() if data is not None},
                {
                    self.text(name): {self.text(entry): size for entry, size in listing.items()}
                    for name, listing in fixture.folders.items()
                },
                {self.text(name): repository for name, repository in repositories.items()},
                {
                    self.text(url): Page(self.text(page.url), self.text(page.text))
                    for url, page in fixture.pages.items()
                },
            ),
        )
        counts = {rule: count for rule, count in sorted(self.counts.items()) if count}
        return replace(changed, head=changed.head.model_copy(update={"redacted": counts}))

    def _message(self, message: Message, config: Mapping[str, Any]) -> Message:
        """Return a prompt in which only what is configured may have been replaced in its place."""
        content = self.everywhere(message["content"])
        for key in ("params", "result"):
            for before, after in _changes(config.get(key), self.value(config.get(key))):
                content = content.replace(self.everywhere(before), after)
        return {**message, "content": content}

    def _step(self, step: Step) -> Step:
        publish = tuple(
            replace(e, payload=self.value(e.payload), dedup_key=self.value(e.dedup_key))
            for e in step.publish
        )
        return replace(
            step,
            payload=self.value(step.payload),
            raw=None if step.raw is None else self.raw(step.raw),
            publish=publish,
            remember=self.value(step.remember),
            scored=self.value(step.scored),
            about=self.value(step.about),
            candidates=self.value(step.candidates),
            whole=self.value(step.whole),
        )

    def _head(self, head: Head) -> Head:
        config = dict(head.config)
        for key in config.keys() & {"done", "description", "params", "result"}:
            config[key] = self.value(config[key])
        for kind, listed in dict(config.get("permissions", {})).items():
            config["permissions"] = {**config["permissions"], kind: self.value(listed)}
        roots = [self._part(root, "path", "spellings") for root in head.volatile.paths]
        return head.model_copy(
            update={
                "config": config,
                "own": self.value(head.own),
                "facts": [self._part(item, "facts") for item in head.facts],
                "event": self._part(head.event, "payload", "dedup_key"),
                "session": self._part(head.session, "outcome", "error", "question"),
                "settled": [self._settled(item) for item in head.settled],
                "volatile": head.volatile.model_copy(update={"paths": roots}),
            }
        )

    def _settled(self, settled: Settled) -> Settled:
        publish = [self._part(event, "payload", "key") for event in settled.publish]
        return self._part(settled, "remember", "scored").model_copy(update={"publish": publish})

    def _part(self, part: Part, *names: str) -> Part:
        return part.model_copy(update={n: self.value(getattr(part, n)) for n in names})

    def _file(self, data: bytes) -> bytes | None:
        """Return a file's content, None where its bytes hold a secret and are no text of ours."""
        if _is_text(data):
            return self.text(data.decode()).encode()
        counts = self.counts.copy()
        same = all(self.text(text) == text for text in _readings(data))
        self.counts = counts
        if same:
            return data
        self.counts["file left out"] += 1
        return None


def _any_of(texts: Sequence[str], levels: int = LEVELS) -> str:
    """Return a pattern of any of these texts, given longest first.

    A tree by their first characters: one long list would be tried from its start at each place.
    """
    if len(texts) < BRANCHES or levels == 0:
        return "|".join(map(re.escape, texts))
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[:1], []).append(text[1:])
    ends = rests.pop("", None)  # the shortest one, so tried last
    branches = [
        f"{re.escape(first)}(?:{_any_of(rest, levels - 1)})" for first, rest in rests.items()
    ]
    return "|".join([*branches, *([""] if ends else [])])


def _changes(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    """Yield the strings of JSON that were changed, with what became of them."""
    if isinstance(before, str) and before != after:
        yield before, after
    elif isinstance(before, Mapping):
        for one, other in zip(before.values(), after.values(), strict=True):
            yield from _changes(one, other)
    elif isinstance(before, list | tuple):
        for one, other in zip(before, after, strict=True):
            yield from _changes(one, other)


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _readings(data: bytes) -> Iterator[str]:
    """Yield what bytes may say: as a tool reads them, and in other encodings of text."""
    yield data.decode("utf-8", "replace")
    if not _is_text(data):
        yield data.replace(b"\0", b"").decode("latin-1")  # UTF-16 and UTF-32, too


def _strings(recording: Recording) -> Iterator[str]:
    """Yield every text of the recording in which a secret may stand."""
    head, fixture = recording.head, recording.fixture
    session = head.session
    yield from _inner(
        [
            [message["content"] for message in recording.messages],
            [head.config, head.event.payload, head.event.dedup_key],
            [item.facts for item in head.facts],
            [
                [s.remember, s.scored, *([e.payload, e.key] for e in s.publish)]
                for s in head.settled
            ],
            [session.outcome, session.error, session.question],
            [
                [
                    s.payload,
                    s.remember,
                    s.raw,
                    [s.scored, s.about, s.candidates, s.whole],
                    *([e.payload, e.dedup_key] for e in s.publish),
                ]
                for s in recording.steps
            ],
        ]
    )
    for name, data in fixture.files.items():
        yield name
        yield from _readings(data)
    for name, listing in fixture.folders.items():
        yield from (name, *listing)
    for url, page in fixture.pages.items():
        yield from (url, page.url, page.text)


def _inner(value: Any, *, named: bool = False) -> Iterator[str]:
    """Yield the strings and keys of JSON; what is secret for what names it, as `Named`."""
    if isinstance(value, str):
        yield Named(value) if named else value
    elif isinstance(value, Mapping):
        secret = secret_places(value)
        for key, item in value.items():
            yield Key(key)
            yield from _inner(item, named=named or key in secret)
    elif isinstance(value, list | tuple):
        secret = secret_places(value)
        for at, item in enumerate(value):
            yield from _inner(item, named=named or at in secret)
