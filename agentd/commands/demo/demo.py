"""The demo: the real daemon, model server and agents, in a throw-away home."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from textwrap import indent

from agentd.bus import Bus
from agentd.commands.demo.changes import what_is_new
from agentd.commands.demo.effort import effort
from agentd.commands.demo.findings import Findings
from agentd.commands.demo.headlines import (
    AGENT,
    ASKED,
    RANKED,
    agent_file,
    for_each_interest,
    shipped_headlines,
)
from agentd.commands.demo.own_line import own_line
from agentd.commands.demo.pipeline import Pipeline, measured
from agentd.commands.demo.pointed import (
    AGENTS,
    FAST,
    SLOW,
    Scale,
    Span,
    agent_config,
    check_repository,
    span_of,
)
from agentd.commands.demo.screen import Screen
from agentd.commands.demo.temporary import running_daemon, temporary_home, write_toml
from agentd.commands.output import (
    BOLD,
    ProgressLine,
    colour,
    duration,
    plain,
    say,
    say_lines,
)
from agentd.errors import AgentdError, UsageError
from agentd.events import NewEvent
from agentd.models import store
from agentd.models.huggingface import folder_bytes
from agentd.paths import Paths
from agentd.process.leave import stoppable
from agentd.task_agent.task_params import INTEREST_MAX, INTERESTS_MAX
from agentd.whole import write_whole

MODEL = "smollm2-135m"
FAST_TOKENS_PER_S = 40.0
FOR_YOU, GO_ON = "What of this is for you?", "To go on"
TEN_LINES = "An agent of ten lines ranks {count} headlines:\n\n{file}"
NO_SCORES = "This model server cannot rank: it has no /v1/score. agentd's own has, with any model."
NO_REPOSITORY = "{why}. `agentd demo --repo PATH` also shows what is new in a git repository."
NEXT = """\
* `uv tool install .` in the clone puts `agentd` on your PATH. `agentd run` starts the daemon.
* Agents that come with it wait as files where `agentd paths agents_d` says: `feed` ranks the news
  by your interests, `notes` lists the open tasks in a folder of notes, `repo_fetch` and
  `repo_review` look at a repository. In the file say which, then `agentd enable NAME`.
* `agentd new NAME` writes an agent of your own, such as the one of ten lines.
* `agentd ui` shows in your browser what they come to, and what they ask you."""


def demo(
    repo: Path | None,
    *,
    interests: Sequence[str] = (),
    model: str | None = None,
    url: str | None = None,
    save: Path | None = None,
    small: bool = False,
    keep: bool = False,
) -> None:
    """Rank headlines by `interests`, look what is new in `repo`, and print what was found.

    Without `repo` it is the one that the person stands in, if any. `small` does as little as on a
    slow machine; else the model's measured speed decides.

    Raises:
        UsageError: `repo` is no git repository with a commit, git is missing, or an option is
            wrong.
        AgentdError: a part failed or took too long; the home is kept and named.
    """
    began = time.monotonic()
    top, why = _found(repo)
    asked, page = _checked(interests), Findings()
    if save is not None:
        page.check_free(save)
    say(colour("agentd demo" if top is None else f"agentd demo on {top}", BOLD))
    with stoppable() as leave, temporary_home(keep, leave) as home:
        name = _get_model(model or MODEL, home) if url is None else model or "default"
        write_toml(home.daemon_file, {"model": {"name": name, **({"url": url} if url else {})}})
        with (
            running_daemon(home, leave) as daemon,
            closing(Bus(home.database, wake=home.wake)) as bus,
        ):
            asked = asked or _checked([*shipped_headlines().interests, own_line()])
            found = measured(home, daemon)
            scale = FAST if found.tokens_per_s >= FAST_TOKENS_PER_S and not small else SLOW
            pipeline = Pipeline(home, daemon, bus, Screen(bus))
            # They start while headlines are ranked.
            span = None if top is None else _set_up(home, top, scale, words=name != MODEL)
            if found.scores:
                _rank(pipeline, page, asked, scale.headlines)
            else:
                page.add(NO_SCORES, FOR_YOU)
            if span is not None:
                _look(pipeline, page, f"What is new in {top}", span)
            total = effort(bus)
        say()
        say_lines(total.text())
        say(f"the demo took {duration(time.monotonic() - began)} in all")
        if not total.complete:
            raise AgentdError(
                "not every event was answered", hint="`agentd dead list` in the kept home"
            )
        if top is None:
            page.add(NO_REPOSITORY.format(why=why))
        page.add(NEXT, GO_ON)
        if save is not None:
            page.save(save)


def _found(repo: Path | None) -> tuple[Path | None, str]:
    """Return the repository's top; where none was named, None and why there is none."""
    try:
        return check_repository(repo or Path()), ""
    except UsageError as error:
        if repo is not None:
            raise
        return None, f"{error.where}: {error.what}" if error.where else error.what


def _checked(interests: Sequence[str]) -> tuple[str, ...]:
    """Return interests as an agent's file takes them, each once; blank ones are none."""
    texts = (plain(" ".join(text.split()))[:INTEREST_MAX] for text in interests)
    found = tuple(dict.fromkeys(filter(None, texts)))
    if len(found) > INTERESTS_MAX:
        raise UsageError(f"at most {INTERESTS_MAX} interests", where="--interest")
    return found


def _get_model(name: str, home: Paths) -> str:
    """Fetch and convert the model unless it is there; return the name to configure."""
    progress = ProgressLine(indent="  ")
    try:
        folder = store.pull(name, home.models, progress)
    finally:
        progress.done()
    say(f"  model {name}: {folder_bytes(folder) / 1e6:.0f} MB on disk")
    return name


def _rank(pipeline: Pipeline, page: Findings, interests: Sequence[str], most: int) -> None:
    """Show the first section: an agent's file, and what it makes of headlines."""
    file = agent_file(interests)
    write_whole(pipeline.home.agents_d / f"{AGENT}.toml", file, mode=None)
    headlines = list(shipped_headlines().about)[:most]
    told = TEN_LINES.format(count=len(headlines), file=indent(file.rstrip(), " " * 4))
    page.add(told, FOR_YOU)
    say()
    pipeline.run([AGENT], NewEvent(ASKED, {"headlines": headlines}, target=AGENT))
    rows = [row for event in pipeline.events(RANKED) for row in event.payload["rows"]]
    page.add(for_each_interest(interests, rows))


def _set_up(home: Paths, repo: Path, scale: Scale, *, words: bool) -> Span:
    """Give the repository's agents their files."""
    span = span_of(repo)
    for agent in AGENTS:
        config = agent_config(agent, repo, scale, against=span.against, words=words)
        write_toml(home.agents_d / f"{agent}.toml", config)
    return span


def _look(pipeline: Pipeline, page: Findings, title: str, span: Span) -> None:
    """Show the second section: the repository."""
    say()
    pipeline.run(AGENTS, NewEvent("agent.trigger", {}, target=AGENTS[0]))
    changes, reviews = map(pipeline.events, ("repo.changed", "review.done"))
    page.add(what_is_new(changes, reviews, span.words), title)
