"""A session as a timeline: turn by turn, with tokens, durations, and how full the context was."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.commands.output import BOLD, DIM, colour, compact, duration, local, plain, say
from agentd.sessions.steps import Step, StepKind

BAR_CHARACTERS = 25


def print_timeline(steps: Sequence[Step], basis: Mapping[str, Any], turn: int = 0) -> None:
    """Print the steps that come after `turn` turns.

    `basis` is what the session depended on; empty where that is not known.
    """
    window = basis.get("window")
    share = basis.get("config", {}).get("limits", {}).get("context_share", 0.4)
    if window:
        say(f"{plain(str(basis['model']))}: window {window} tokens, {int(window * share)} to use")
    for step in steps:
        turn += step.kind is StepKind.DECISION
        say()
        say(_head(step, turn))
        say(f"  {compact(step.payload)}")
        if step.context_tokens is not None and window:
            say(colour(f"  {context_bar(step.context_tokens, window, share)}", DIM))
        for event in step.publish:
            say(f"  publishes {plain(event.event_type)} {compact(event.payload)}")
        if step.remember:
            say(f"  remembers {compact(step.remember)}")


def _head(step: Step, turn: int) -> str:
    decision = step.kind is StepKind.DECISION
    head = f"turn {turn} decision" if decision else step.kind.value
    facts = [] if step.trusted else ["untrusted"]
    if step.attempt > 1:
        facts.append(f"attempt {step.attempt}")
    if step.allowed is not None:
        facts.append(f"of {', '.join(step.allowed)} alone")
    if step.finish_reason != "stop":
        facts.append(f"finish: {step.finish_reason}")
    if step.prompt_tokens is not None:
        facts.append(
            f"{step.prompt_tokens} prompt tokens, {step.cached_tokens or 0} of them cached,"
            f" {step.completion_tokens} decided"
        )
    if step.duration_ms is not None:
        facts.append(duration(step.duration_ms / 1000))
    aside = colour(f"  ({plain('; '.join(facts))})", DIM) if facts else ""
    return f"{colour(head, BOLD)}  {local(step.ts)}  {plain(step.type)}{aside}"


def context_bar(tokens: int, window: int, share: float) -> str:
    """Return how full the window was; the `|` marks what may be used of it."""
    filled = min(BAR_CHARACTERS, round(BAR_CHARACTERS * tokens / window))
    bar = ["#" if at < filled else "." for at in range(BAR_CHARACTERS)]
    mark = min(BAR_CHARACTERS, round(BAR_CHARACTERS * share))
    bar.insert(mark, "|")
    return f"context [{''.join(bar)}] {tokens} tokens, {100 * tokens / window:.0f} % of the window"
