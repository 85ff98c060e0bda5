"""How a session comes to rest or fails, compared with how it was recorded.

Each function raises Diverged where it is otherwise.
"""

from typing import Any

from agentd.bus.dead import short_error
from agentd.errors import AgentdError
from agentd.loop import Ending
from agentd.process.failure import without_places
from agentd.replay.difference import comparable
from agentd.replay.folder_map import FolderMap
from agentd.replay.playback import Playback
from agentd.sessions.session import FORCED
from agentd.sessions.steps import effects_document
from agentd.states import SessionState


def check_settled(playback: Playback, ending: Ending, number: int) -> None:
    """Compare what a closing or parking publishes and remembers; 0 is the session's first."""
    known = playback.recording.settled(number)
    if known is None:
        return
    recorded: Any = effects_document(known.events(), known.remember)
    now: Any = effects_document(ending.result.publish, ending.result.remember)
    if ending.question is not None:  # what else agentd says of it is its own affair
        recorded, now = known.question, ending.question
    if comparable(recorded) != comparable(now):
        raise playback.diverged("what is published at the end", recorded, now)


def check_end(playback: Playback, ending: Ending) -> None:
    """Compare how the session came to rest for good."""
    head = playback.recording.head.session
    if playback.next_step is not None:
        raise playback.diverged("the end", f"goes on with {playback.next_step.type}", "ends here")
    if head.error is not None:
        raise playback.diverged("the end", f"failed: {head.error}", "ends well")
    if head.state is SessionState.ENDED and ending.question is None:
        recorded, own = comparable(head.outcome), ending.result.value
        # Older agentds did not say it, or wrote it over an agent's own field of that name.
        ways = (ending.outcome, own, {**own, FORCED: ending.forced})
        now, *older = (comparable(outcome) for outcome in ways)
        if recorded != now and not (ending.forced and recorded in older):
            raise playback.diverged("the outcome", head.outcome, ending.outcome)


def check_failure(playback: Playback, error: Exception, folders: FolderMap) -> None:
    """Compare a failure with the recorded one, if there is one."""
    text = str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}: {error}"
    text = short_error(folders.as_recorded(text))
    head = playback.recording.head.session
    recorded = f"failed: {head.error}" if head.error is not None else f"{head.state.value}"
    same = head.error is not None and text == without_places(head.error)
    if not same or playback.next_step is not None:
        raise playback.diverged("the end", recorded, f"failed: {text}") from error
