"""How replays are printed: a verdict with its difference, a table of many, a fork's turns."""

from collections.abc import Sequence

from agentd.commands.output import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    colour,
    compact,
    duration,
    plain,
    print_json,
    print_table,
    say,
)
from agentd.commands.sessions import step_document
from agentd.commands.timeline import print_timeline
from agentd.replay.difference import Difference
from agentd.replay.live import Fork, LiveTurn
from agentd.replay.many import Verdict

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
    )
    words = [verdict.word for verdict in verdicts]
    counts = [f"{words.count(word)} {word}" for word in COLOURS if word in words]
    say()
    say(f"{len(verdicts)} in all: {', '.join(counts)}")


def print_fork(fork: Fork, *, as_json: bool) -> None:
    """Print how a session went on beyond its fork."""
    published = [{"type": e.event_type, "payload": dict(e.payload)} for e in fork.published]
    if as_json:
        steps = [step_document(step) for step in fork.steps]
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
