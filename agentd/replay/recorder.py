"""Makes a recording of a session in the database, and checks at once that it replays."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd.config.last_good import effective_config
from agentd.errors import ConfigError, RecordingError
from agentd.paths import Paths, expanded
from agentd.recordings import git_pack
from agentd.recordings.recording import (
    EventHead,
    Head,
    ModelHead,
    Publication,
    RecordedFacts,
    Recording,
    Repository,
    SessionHead,
    Settled,
    VersionHead,
    Volatile,
    texts_of,
    tool_digest,
)
from agentd.recordings.redact import redact
from agentd.replay.capture import Capture, find_roots
from agentd.replay.code import Code, Workshop
from agentd.replay.replay import Outcome, Replay
from agentd.sessions.archive import Archive, History
from agentd.sessions.steps import StepKind
from agentd.states import SessionState
from agentd.tools.closed import Closed


def record_session(
    archive: Archive, session_id: int, paths: Paths, workshop: Workshop, *, scrub: bool = False
) -> tuple[Recording, Outcome]:
    """Return a session's recording, and how its first replay went.

    Results that the captured fixture does not reproduce are marked: a file was changed since, is
    too large, or is no file at all. Secrets are redacted; with `scrub` also names.

    Raises:
        UsageError: there is no such session.
        RecordingError: it still runs, or too little is kept of it.
        ConfigError: its agent's code cannot be used.
    """
    where = f"session {session_id}"
    recording, code = capture_session(archive, session_id, paths, workshop)
    recording = redact(
        recording,
        known=_own_secrets(paths),
        scrub=scrub,
        contents=lambda repository: _contents(repository, workshop),
    )
    recording = with_version(recording, code, workshop, where)
    return mark_given(recording, code, workshop, where)


def capture_session(
    archive: Archive, session_id: int, paths: Paths, workshop: Workshop
) -> tuple[Recording, Code]:
    """Return a session with what its tools read, and the code it ran on, or that of now.

    Its secrets are still in it. Raises as `record_session` does.
    """
    where = f"session {session_id}"
    history = archive.history(session_id)
    if history.row.state is SessionState.RUNNING:
        raise RecordingError(
            "this session still runs, or was cut off and resumes",
            where=where,
            hint="record it when it has ended",
        )
    recording = _from_history(history, where)
    name = recording.head.agent
    code = workshop.kept(name, str(history.basis["version"]), paths)
    code = code or workshop.current(recording.config.agent, paths, where, recording.config)
    roots = find_roots(recording)
    recording = _with(recording, volatile=Volatile(paths=roots))
    closed = Closed.of(paths, name, _key_file(paths))
    fixture = Capture(recording, code, workshop, where, closed).fixture()
    return replace(recording, fixture=fixture), code


def _own_secrets(paths: Paths) -> list[str]:
    """Return the daemon's own token and key, which stand in no recording."""
    found = []
    for file in filter(None, (paths.token, _key_file(paths))):
        with suppress(OSError, UnicodeDecodeError):
            found.append(file.read_text().strip())
    return found


def _key_file(paths: Paths) -> Path | None:
    with suppress(ConfigError):
        key = effective_config(paths).model.api_key_file
        return expanded(key) if key else None
    return None


def _contents(repository: Repository, workshop: Workshop) -> list[bytes]:
    if not repository.pack:
        return []
    with workshop.empty_folder() as folder:
        git_pack.restore(repository, folder)
        return list(git_pack.contents(folder))


def _from_history(history: History, where: str) -> Recording:
    """Return what the database alone has of a session: no fixture, nothing redacted.

    Raises:
        RecordingError: too little is kept of it.
    """
    row, basis = history.row, history.basis
    if not history.steps or not basis:
        raise RecordingError(
            "too little is kept of this session: it failed before its first step, or ran on an "
            "older agentd",
            where=where,
        )
    if history.event is None:
        raise RecordingError("the event that it answers was pruned", where=where)
    steps = tuple(
        step if step.duration_ms is None else replace(step, duration_ms=round(step.duration_ms, 1))
        for step in history.steps
    )
    head = Head(
        agent=row.agent,
        agentd=str(basis["agentd"]),
        session=SessionHead(**{name: getattr(row, name) for name in SessionHead.model_fields}),
        event=EventHead(**{**vars(history.event), "payload": dict(history.event.payload)}),
        config=dict(basis["config"]),
        facts=[RecordedFacts(attempt=attempt, facts=facts) for attempt, facts in basis["facts"]],
        approve=dict(basis.get("approve", {})),
        own=str(basis.get("own", "")),
        model=ModelHead(
            name=str(basis["model"]), window=basis["window"], fixed_tokens=basis["fixed_tokens"]
        ),
        version=VersionHead(hash=str(basis["version"])),
        settled=[_settled(item) for item in basis.get("settled", ())],
    )
    return Recording(head, tuple(basis["prompt"]), steps, texts_of(steps))


def _settled(item: Mapping[str, Any]) -> Settled:
    events = [
        Publication(type=kind, payload=payload, target=target, key=key)
        for kind, payload, target, key in item["publish"]
    ]
    return Settled(publish=events, remember=item["remember"], scored=item.get("scored", []))


def _with(recording: Recording, **changes: Any) -> Recording:
    return replace(recording, head=recording.head.model_copy(update=changes))


def with_version(recording: Recording, code: Code, workshop: Workshop, where: str) -> Recording:
    """Return the recording with what the code says of it: sources, decisions, tools."""
    union, version = Replay(recording, code, workshop, where=where).describe()
    tools = {name: tool_digest(name) for name in version.uses if name not in version.mcp}
    about = VersionHead(
        hash=recording.head.version.hash, sources=dict(code.sources), union=union, tools=tools
    )
    volatile = recording.head.volatile.model_copy(update={"fields": sorted(version.agent.volatile)})
    return _with(recording, version=about, volatile=volatile)


def mark_given(
    recording: Recording, code: Code, workshop: Workshop, where: str
) -> tuple[Recording, Outcome]:
    """Replay until only results are given that must be, and return how it went."""
    while True:
        replay = Replay(recording, code, workshop, where=where)
        outcome = replay.run()
        step = replay.playback.next_step
        if (
            outcome.difference is None
            or step is None
            or step.kind is not StepKind.RESULT
            or step.seq in recording.given
        ):
            return recording, outcome
        recording = replace(recording, given=recording.given | {step.seq})
