"""What can be replayed: a recording's file, or a session of the database."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from agentd.config.agent import AgentConfig, Permissions, check_agent_name, load_agent
from agentd.errors import RecordingError, UsageError
from agentd.llm.endpoint import Endpoint
from agentd.paths import Paths
from agentd.recordings import recording_file
from agentd.recordings.recording import Recording
from agentd.replay.code import Code, Workshop, as_now
from agentd.replay.fork import Fork, ForkAt
from agentd.replay.live import AskAgain, LiveTurn
from agentd.replay.recorder import capture_session, mark_given, with_version
from agentd.replay.replay import Outcome, Replay
from agentd.sessions.archive import Archive
from agentd.states import SessionState

SESSIONS_MAX = 100_000


@dataclass(frozen=True)
class Source:
    """Something to replay: its name for people, its recording, and the agent's code for it.

    `config` is the configuration as it is now, None where the recorded one holds. `notes` go before
    those of a replay; `done` is the outcome of a plain one, where that is known. `installed` is the
    file in agents.d of the recorded agent's name.
    """

    name: str
    recording: Recording
    code: Code
    config: AgentConfig | None = None
    notes: tuple[str, ...] = ()
    done: Outcome | None = None
    installed: Path | None = None

    def replay(self, workshop: Workshop, **options: Any) -> Outcome:
        """Replay it; see `Replay` for the options and what it raises."""
        plain = options.get("tools", "fixture") == "fixture" and not options.get("live_effects")
        outcome = self.done if plain else None
        if outcome is None:
            outcome = Replay(self.recording, self.code, workshop, **self._with(options)).run()
        return self._noted(outcome)

    def ask_again(
        self, workshop: Workshop, endpoint: Endpoint, **options: Any
    ) -> tuple[Outcome, Sequence[LiveTurn]]:
        """Replay it, asking a model at each turn; see `AskAgain`."""
        given = self._with(options)
        replay = AskAgain(self.recording, self.code, workshop, endpoint=endpoint, **given)
        return self._noted(replay.run()), replay.turns

    def fork(self, workshop: Workshop, turn: int, endpoint: Endpoint, **options: Any) -> Fork:
        """Let a model go on from a turn; see `ForkAt`."""
        given = {"turn": turn, "endpoint": endpoint, **self._with(options)}
        return ForkAt(self.recording, self.code, workshop, **given).fork()

    def _noted(self, outcome: Outcome) -> Outcome:
        return replace(outcome, notes=(*self.notes, *outcome.notes))

    def _with(self, options: dict[str, Any]) -> dict[str, Any]:
        given = {"config": self.config, "where": self.name, **options}
        return {**given, "installed": self._permissions()} if options.get("live_effects") else given

    def _permissions(self) -> Permissions:
        """Return what may be done for real.

        Raises:
            UsageError: no such agent is installed here; the recording alone allows nothing.
            ConfigError: its file is wrong.
        """
        name, agent = self.recording.head.agent, self.recording.config.agent
        if self.installed is not None and self.installed.exists():
            config = load_agent(self.installed)
            if config.agent == agent:
                return config.permissions
        raise UsageError(
            f'live effects need the installed agent {name!r} (agent = "{agent}"): what it may do '
            "counts, and not what the recording says",
            where=self.name,
            hint="replay without --live-effects, or install the agent",
        )


def of_file(path: Path, paths: Paths, workshop: Workshop) -> Source:
    """Return a recording's file, with the agent's code as it is now and the recorded configuration.

    Raises:
        RecordingError: the file cannot be read, or its agent is gone.
        ConfigError: the agent's prompts do not compile.
    """
    recording = recording_file.load(path)
    try:
        agent = recording.config.agent
    except RecordingError as error:
        error.where = str(path)
        raise
    check_agent_name(recording.head.agent, where=str(path))  # it becomes a file's name
    installed = paths.agents_d / f"{recording.head.agent}.toml"
    code = workshop.current(agent, paths, str(path), recording.config)
    return Source(str(path), recording, code, installed=installed)


def of_session(session_id: int, archive: Archive, paths: Paths, workshop: Workshop) -> Source:
    """Return a session of the database, with the agent's code and configuration as they are now.

    Raises:
        UsageError, RecordingError, ConfigError: see `record_session`.
        RecordingError: it replays neither so nor with the code that it ran on.
    """
    name = f"session {session_id}"
    recording, ran_on = capture_session(archive, session_id, paths, workshop)
    file = paths.agents_d / f"{recording.head.agent}.toml"
    config, notes = recording.config, tuple[str, ...]()
    if file.exists():
        config = as_now(config, load_agent(file))
    else:
        notes = (f"{file.name} is gone: the recorded configuration holds",)
    now = workshop.current(config.agent, paths, name, config)
    outcome = Replay(recording, now, workshop, config=config, where=name).run()
    if outcome.identical and now.sources == ran_on.sources:
        return Source(name, recording, now, config, notes, outcome, file)
    # Which results the fixture does not reproduce is found out with the code that it ran on.
    recording = with_version(recording, ran_on, workshop, name)
    if not outcome.identical:
        recording, first = mark_given(recording, ran_on, workshop, name)
        if first.difference is not None and ran_on.hash:
            raise RecordingError(
                "does not replay with the code that it ran on either: "
                f"turn {first.difference.turn}: {first.difference.what} differs",
                where=name,
                hint=f"`agentd record {session_id}` shows how",
            )
    return Source(name, recording, now, config, notes, installed=file)


def recorded_sessions(
    archive: Archive, *, since: datetime | None = None, agent: str | None = None
) -> list[int]:
    """Return the ids of all sessions at rest that took a decision, oldest first."""
    rows = archive.list(agent=agent, limit=SESSIONS_MAX)
    return [
        row.id
        for row in reversed(rows)
        if row.state is not SessionState.RUNNING
        and row.turns
        and (since is None or row.started_at >= since)
    ]
