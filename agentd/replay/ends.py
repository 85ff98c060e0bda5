"""How a replayed session came to rest, compared with how the recorded one did."""

from agentd.bus.dead import short_error
from agentd.errors import AgentdError
from agentd.events import NewEvent
from agentd.loop import Ending
from agentd.process.failure import without_places
from agentd.recordings.recording import ASKED
from agentd.replay.difference import shown
from agentd.replay.places import Places
from agentd.replay.tape import Tape
from agentd.sessions.session import FORCED
from agentd.sessions.steps import settled
from agentd.states import SessionState


def check_rest(tape: Tape, ending: Ending, rest: int) -> None:
    """Compare what the `rest`-th closing or parking publishes and remembers.

    Raises:
        Diverged: it is not as recorded.
    """
    result = ending.result
    publish, remember = result.publish, result.remember
    if ending.question is not None:
        asked = {"session": tape.recording.head.session.id, "question": ending.question}
        publish, remember = [NewEvent(ASKED, asked)], {}
    now = settled(publish, remember)
    recorded = tape.recording.settled(rest)
    if recorded is not None and shown(recorded) != shown(now):
        raise tape.diverged("what is published at the end", recorded, now)


def check_ended(tape: Tape, ending: Ending) -> None:
    """Compare how the session came to rest; see `check_rest`."""
    head = tape.recording.head.session
    if tape.coming is not None:
        raise tape.diverged("the end", f"goes on with {tape.coming.type}", "ends here")
    if head.error is not None:
        raise tape.diverged("the end", f"failed: {head.error}", "ends well")
    if head.state is SessionState.ENDED and ending.question is None:
        outcome = ending.outcome
        if FORCED not in (head.outcome or {}):  # an agentd before 0.2 did not say it
            outcome.pop(FORCED, None)
        recorded, now = shown(head.outcome), shown(outcome)
        if recorded != now:
            raise tape.diverged("the outcome", recorded, now)


def check_failed(tape: Tape, error: Exception, places: Places) -> None:
    """Compare a failure with the recorded one, if there is one; see `check_rest`."""
    text = str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}: {error}"
    text = short_error(places.outward(text))
    head = tape.recording.head.session
    recorded = f"failed: {head.error}" if head.error is not None else f"{head.state.value}"
    same = head.error is not None and text == without_places(head.error)
    if not same or tape.coming is not None:
        raise tape.diverged("the end", recorded, f"failed: {text}") from error
