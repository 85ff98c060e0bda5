"""`agentd replay`: run recorded sessions again, without a model, and say where they differ."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.commands.fitted_table import print_table
from agentd.commands.home import live_model, open_bus
from agentd.commands.output import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    ProgressLine,
    colour,
    compact,
    count,
    duration,
    plain,
    print_json,
    say,
    whole,
)
from agentd.commands.row_filter import moment
from agentd.commands.sessions import print_timeline
from agentd.config.suggest import did_you_mean, listed
from agentd.errors import NotRunning, UsageError
from agentd.paths import Paths, discover
from agentd.replay.difference import Difference
from agentd.replay.fork import Fork
from agentd.replay.live import LiveTurn
from agentd.replay.verdicts import Verdict
from agentd.states import Exit
from agentd.views.session_turns import step_fields

if TYPE_CHECKING:
    from agentd.llm.endpoint import Endpoint
    from agentd.replay.code import Workshop
    from agentd.replay.sources import Source
    from agentd.sessions.archive import Archive

EXAMPLES = """example:
  agentd replay review.recording
  agentd replay 7                          # a session, with its agent as it is configured now
  agentd replay --all --since 7d           # after a change of agent, prompt or model
  agentd replay 7 --model live             # where does the running model decide otherwise?
  agentd replay 7 --from 3 --model live    # go on from turn 3 with the running model

Runs the real loop, agent and tools with the recorded decisions in the model's place. Model and
network are off; nothing is published, no cursor steps, no database is written. Reading tools run on
the recording's fixture, and their results are compared; of all others the recorded result is taken.
Stops at the first difference. Exits 0 when all are identical, 1 when one is not.

--json prints a list of name, agent, result (identical, diverged, failed), turns, given (results
taken as recorded), notes, difference (null, or turn, what, recorded, now, hint), live (turns of a
model asked again: turn, recorded, now, same, tokens, duration_ms, error), error. With --from one
object: turn, steps, outcome, published, question, stopped."""

KNOWN_MAX = 1_000  # sessions whose agents are named where another one was meant

Load = Callable[[], "Source"]


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "targets", nargs="*", type=_target, metavar="FILE|SESSION", help="what to replay"
    )
    parser.add_argument("--all", action="store_true", help="every session that is kept")
    parser.add_argument(
        "--since", type=moment, metavar="WHEN", help="--all: only those begun since"
    )
    parser.add_argument("--agent", metavar="NAME", help="--all: only this agent's")
    parser.add_argument(
        "--tools",
        choices=("fixture", "recorded"),
        default="fixture",
        help="recorded: take all results as recorded, compare prompts and decisions",
    )
    parser.add_argument(
        "--live-effects",
        action="store_true",
        help="carry out also what changes something: only for recordings that you trust",
    )
    parser.add_argument(
        "--model",
        choices=("recorded", "live"),
        default="recorded",
        help="live: ask the model of the running daemon again",
    )
    parser.add_argument(
        "--from", dest="turn", type=count, metavar="N", help="fork: let the live model go on here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """Replay, and print a verdict, or a table of several."""
    from agentd.replay.code import Workshop
    from agentd.replay.verdicts import replay_all

    _check(args)
    paths = discover()
    options = {"tools": args.tools, "live_effects": args.live_effects}
    with Workshop() as workshop, _progress(args) as progress:
        sources = list(_sources(args, paths, workshop))
        if args.turn is not None:
            endpoint, call = _endpoint(paths)
            fork = sources[0][1]().fork(workshop, args.turn, endpoint, **call, **options)
            progress.done()
            print_fork(fork, as_json=args.json)
            return Exit.OK if fork.stopped is None else Exit.FAILED
        live: dict[str, Any] = {}
        if args.model == "live":
            endpoint, call = _endpoint(paths)
            label = partial(progress, label="asked at turn")
            live = {"endpoint": endpoint, **call}
            if len(sources) == 1:
                live["asked"] = lambda turn, turns: label(turn, turns)
        verdicts = []
        for verdict in replay_all(sources, workshop, **live, **options):
            verdicts.append(verdict)
            if len(sources) > 1:
                progress(len(verdicts), len(sources), "replayed")
    if args.json:
        print_json([verdict.document() for verdict in verdicts])
    elif len(verdicts) == 1 and not args.all:
        print_one(verdicts[0])
    elif not verdicts:
        say("no sessions to replay")
    else:
        print_table_of(verdicts)
    return Exit.OK if all(verdict.word == "identical" for verdict in verdicts) else Exit.FAILED


def _target(text: str) -> str:
    if text.isdecimal():
        whole(text)
    return text


def _check(args: argparse.Namespace) -> None:
    if bool(args.targets) == args.all:
        args.fail("name files or sessions, or use --all")
    if (args.since or args.agent) and not args.all:
        args.fail("--since and --agent are for --all")
    if args.live_effects and args.tools == "recorded":
        args.fail("--live-effects carries tools out, --tools recorded none: choose one")
    if args.turn is not None and (args.model != "live" or args.all or len(args.targets) != 1):
        args.fail("--from goes with --model live and one recording")


@contextmanager
def _progress(args: argparse.Namespace) -> Iterator[ProgressLine]:
    progress = ProgressLine(unit="turns" if len(args.targets) == 1 else "recordings")
    try:
        yield progress
    finally:
        progress.done()


def _sources(
    args: argparse.Namespace, paths: Paths, workshop: "Workshop"
) -> "Iterator[tuple[str, Load]]":
    from agentd.replay.sources import of_file, of_session, recorded_sessions
    from agentd.sessions.archive import Archive

    named: Sequence[str] = args.targets
    numbers = [name for name in named if name.isdecimal() and not Path(name).exists()]
    archive = Archive(open_bus(paths)) if numbers or args.all else None
    if args.all:
        assert archive is not None
        if args.agent is not None:
            _check_agent(args.agent, archive)
        numbers = list(map(str, recorded_sessions(archive, since=args.since, agent=args.agent)))
    for name in numbers if args.all else named:
        if archive is not None and name in numbers:
            yield (
                f"session {name}",
                partial(of_session, int(name), archive, paths, workshop),
            )
        elif name.startswith("-"):
            raise UsageError("is neither a file nor a session", where=name)
        else:
            yield name, partial(of_file, Path(name), paths, workshop)


def _check_agent(name: str, archive: "Archive") -> None:
    known = sorted({row.agent for row in archive.list(limit=KNOWN_MAX)})
    if name not in known and not archive.list(agent=name, limit=1):
        raise UsageError(
            f"has no sessions; those of these agents are kept: {listed(known)}"
            f"{did_you_mean(name, known)}",
            where=name,
        )


def _endpoint(paths: Paths) -> "tuple[Endpoint, dict[str, float]]":
    """Return the running daemon's model, and how long a call may take.

    Raises:
        NotRunning: no daemon runs, and no other server is configured.
    """
    try:
        endpoint, config = live_model(paths)
    except NotRunning as error:
        raise NotRunning(
            "a live model is that of the running daemon, and none runs",
            where=error.where,
            hint="`agentd run`, or set [model] url",
        ) from error
    return endpoint, {"call_deadline_s": config.call_deadline.total_seconds()}


COLOURS = {"identical": GREEN, "diverged": YELLOW, "failed": RED}


def print_one(verdict: Verdict) -> None:
    """Print one verdict with its difference.

    Raises:
        AgentdError: what it failed with.
    """
    if verdict.error is not None:
        raise verdict.error
    outcome = verdict.outcome
    assert outcome is not None
    given = f", {outcome.given} results taken as recorded" if outcome.given else ""
    say(f"{plain(verdict.name)}: {_word(verdict)} ({outcome.turns} turns{given})")
    for note in outcome.notes:
        say(f"  {note}")
    for turn in verdict.live:
        _live(turn)
    if outcome.difference is not None:
        _difference(outcome.difference)


def print_table_of(verdicts: Sequence[Verdict]) -> None:
    """Print a line for each verdict, and how many there are of each kind."""
    print_table(
        ("RECORDING", "AGENT", "RESULT", "TURNS", "WHERE"),
        (
            (v.name, v.agent, v.word, v.outcome.turns if v.outcome else None, v.where)
            for v in verdicts
        ),
        leave={"TURNS": 2, "AGENT": 1},
        least={"RECORDING": 16, "AGENT": 12, "WHERE": 16},
    )
    words = [verdict.word for verdict in verdicts]
    counts = [f"{words.count(word)} {word}" for word in COLOURS if word in words]
    say()
    say(f"{len(verdicts)} in all: {', '.join(counts)}")


def print_fork(fork: Fork, *, as_json: bool) -> None:
    """Print how a session went on beyond its fork."""
    published = [{"type": e.event_type, "payload": dict(e.payload)} for e in fork.published]
    if as_json:
        steps = [step_fields(step) for step in fork.steps]
        print_json({**vars(fork), "steps": steps, "published": published})
        return
    say(colour(f"from turn {fork.turn} on, with the live model:", BOLD))
    print_timeline(fork.steps, {}, turn=fork.turn - 1)
    for event in published:
        say(f"would publish {plain(str(event['type']))} {compact(event['payload'])}")
    if fork.stopped is not None:
        say(f"stopped: {plain(fork.stopped)}")
    elif fork.question is not None:
        say(f"would ask a person: {plain(fork.question)}")
    else:
        say(f"ended: {compact(fork.outcome)}")


def _word(verdict: Verdict) -> str:
    return colour(verdict.word, COLOURS[verdict.word])


def _live(turn: LiveTurn) -> None:
    word = colour("as recorded", GREEN) if turn.same else colour("otherwise", YELLOW)
    cost = f"{turn.prompt_tokens}+{turn.completion_tokens} tokens, "
    say(f"turn {turn.turn}: decides {word} ({cost}{duration(turn.duration_ms / 1000)})")
    if turn.error is not None:
        say(f"  no decision: {plain(turn.error)}")
    elif not turn.same:
        _lines(Difference(turn.turn, "", turn.recorded, turn.now))


def _difference(difference: Difference) -> None:
    say(f"turn {difference.turn}: {difference.what} differs (- recorded, + now)")
    _lines(difference)
    if difference.hint:
        say(f"hint: {difference.hint}")


def _lines(difference: Difference) -> None:
    for line in difference.lines():
        kind = {"-": RED, "+": GREEN, "@": DIM}.get(line[:1])
        say("  " + (colour(plain(line), kind) if kind else plain(line)))
