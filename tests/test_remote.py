"""Tools in another process, seen from the worker. Real channels; the other end is a thread."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import AgentdError, PermissionRefused, Stopped, ToolError
from agentd.process.channel import BYE, Channel
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink
from agentd.tools import remote
from agentd.tools.remote import Remote
from agentd.tools.toolbox import Toolbox

SOON_S = 20.0
Serve = Callable[[Channel], None]


class Link(SupervisorLink):
    """A supervisor that starts `serve` in a thread, the next one of `servers` each time."""

    def __init__(self, *servers: Serve) -> None:
        super().__init__(None)
        self._servers = iter(servers)
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []

    def ask(
        self, document: Mapping[str, Any], deadline_s: float = 0, cancel: Cancel | None = None
    ) -> tuple[dict[str, Any], list[int]]:
        self.asked.append(document["ask"])
        serve = next(self._servers, None) if document["ask"] == "hands" else None
        if serve is None:
            raise AgentdError("no more")
        ours, theirs = socket.socketpair()

        def run() -> None:
            with suppress(OSError):
                serve(Channel(theirs))
            theirs.close()

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        return {"ok": True}, [ours.detach()]


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Remote, Link]]]:
    links: list[tuple[Remote, Link]] = []

    def make(*servers: Serve) -> tuple[Remote, Link]:
        link = Link(*servers)
        links.append((Remote(link, "hands", kill="kill_hands"), link))
        return links[-1]

    yield make
    for one, link in links:
        one._leave()
        for thread in link.threads:
            thread.join(SOON_S)
            assert not thread.is_alive()


def answering(**answer: Any) -> Serve:
    def serve(channel: Channel) -> None:
        while True:
            request = channel.receive(SOON_S)[0]
            value = {"call": request["call"], **request["args"]}
            plain = {"id": request["id"], "value": value, "trusted": False, "effect": True}
            channel.send({**plain, **answer})

    return serve


def die_in_a_call(channel: Channel) -> None:
    channel.receive(SOON_S)


def call(one: Remote, *, cancel: Cancel | None = None, **options: Any) -> Mapping[str, Any]:
    return one.call("Tool", {"a": 1}, SOON_S, cancel or Cancel(), **options).value


def test_a_call_is_answered_over_one_channel(made: Callable[..., tuple[Remote, Link]]) -> None:
    """The process is asked for once; trust and effect come with the answer."""
    one, link = made(answering())
    assert call(one) == call(one) == {"call": "Tool", "a": 1}
    result = one.call("Tool", {}, SOON_S, Cancel())
    assert (result.trusted, result.effect) == (False, True)
    assert link.asked == ["hands"]


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ({"error": {"kind": "refused", "what": "not listed"}}, PermissionRefused, "not listed"),
        ({"error": {"kind": "tool", "what": "no such file"}}, ToolError, "no such file"),
        ({"error": {"kind": "stopped", "what": "who knows"}}, ToolError, "who knows"),
        ({"value": [1]}, ToolError, "no JSON object"),
    ],
)
def test_errors_are_those_of_the_tool(
    made: Callable[..., tuple[Remote, Link]],
    answer: dict[str, Any],
    kind: type[ToolError],
    told: str,
) -> None:
    """A stop that nobody here asked for is an error as well: it must not cut the session."""
    one, _ = made(answering(**answer))
    with pytest.raises(kind, match=told) as found:
        call(one)
    assert type(found.value) is kind


def test_a_tool_that_may_run_again_does_so_once(made: Callable[..., tuple[Remote, Link]]) -> None:
    """Its process died in the middle of it: as a worker's death is met."""
    one, link = made(die_in_a_call, answering())
    assert call(one, idempotent=True)["a"] == 1
    one, link = made(die_in_a_call, die_in_a_call, answering())
    with pytest.raises(ToolError, match="Tool: its process ended in the middle of it"):
        call(one, idempotent=True)
    assert link.asked == ["hands"] * 2
    assert call(one)["a"] == 1, "the next call starts a new one"


def test_a_tool_that_may_not_run_again_may_have_happened(
    made: Callable[..., tuple[Remote, Link]],
) -> None:
    """The model is told what it is told after a worker died: it may have happened or not."""
    one, link = made(die_in_a_call, answering())
    with pytest.raises(ToolError, match="interrupted in the middle: it may have happened or not"):
        call(one)
    assert link.asked == ["hands"]


def test_what_an_idle_process_left_unread_is_begun_once(
    made: Callable[..., tuple[Remote, Link]],
) -> None:
    """It says that it ends; the call that was on its way goes to the next one, never to both."""
    said, sent = threading.Event(), threading.Event()

    def end_by_itself(channel: Channel) -> None:
        answering_once(channel)
        sent.wait(SOON_S)
        channel.send({BYE: True})
        said.set()

    def answering_once(channel: Channel) -> None:
        request = channel.receive(SOON_S)[0]
        channel.send({"id": request["id"], "value": {"first": True}})

    one, link = made(end_by_itself, answering(), answering())
    assert call(one) == {"first": True}
    threading.Timer(0.1, sent.set).start()
    assert call(one)["a"] == 1, "sent before the goodbye"
    assert said.wait(SOON_S)
    link.threads[0].join()
    assert call(one)["a"] == 1
    assert link.asked == ["hands"] * 2


def test_a_process_that_ended_between_calls_is_replaced(
    made: Callable[..., tuple[Remote, Link]],
) -> None:
    """Also where it was killed and said nothing."""

    def once(channel: Channel) -> None:
        request = channel.receive(SOON_S)[0]
        channel.send({"id": request["id"], "value": {"first": True}})

    one, link = made(once, answering())
    call(one)
    link.threads[0].join()
    assert call(one)["a"] == 1


def test_a_stop_is_passed_on(made: Callable[..., tuple[Remote, Link]]) -> None:
    """The call is cancelled by a message; a process that heeds it lives on."""
    cancel, heard = Cancel(), []

    def heeding(channel: Channel) -> None:
        request = channel.receive(SOON_S)[0]
        cancel.stop()
        heard.append(channel.receive(SOON_S)[0])
        channel.send({"id": request["id"], "error": {"kind": "stopped", "what": ""}})
        answering()(channel)

    one, link = made(heeding)
    with pytest.raises(Stopped):
        call(one, cancel=cancel)
    assert heard == [{"cancel": 1}]
    assert call(one)["a"] == 1
    assert link.asked == ["hands"]


def test_a_process_that_ignores_its_cancel_is_killed(
    made: Callable[..., tuple[Remote, Link]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the supervisor: nobody else may. The next call has a new one."""
    monkeypatch.setattr(remote, "GRACE_S", 0.05)
    cancel = Cancel()

    def deaf(channel: Channel) -> None:
        channel.receive(SOON_S)
        cancel.stop()
        while True:
            channel.receive(SOON_S)

    one, link = made(deaf, answering())
    with pytest.raises(Stopped):
        call(one, cancel=cancel)
    assert link.asked == ["hands", "kill_hands"]
    assert call(one)["a"] == 1


def test_a_call_ends_at_its_deadline(
    made: Callable[..., tuple[Remote, Link]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the process keeps none itself."""
    monkeypatch.setattr(remote, "GRACE_S", 0.05)

    def slow(channel: Channel) -> None:
        while True:
            channel.receive(SOON_S)

    one, link = made(slow, slow)
    for idempotent, told in ((False, "stopped: it may have happened or not$"), (True, "stopped$")):
        with pytest.raises(ToolError, match=f"^Tool: took too long and was {told}"):
            one.call("Tool", {}, 0.05, Cancel(), idempotent=idempotent)
    assert link.asked == ["hands", "kill_hands"] * 2


def test_a_process_that_cannot_be_had_is_the_tools_error(
    made: Callable[..., tuple[Remote, Link]],
) -> None:
    """The model is told, with the supervisor's reason."""
    one, _ = made()
    with pytest.raises(ToolError, match="hands cannot be had: no more"):
        call(one)


def test_a_toolbox_checks_before_it_asks(made: Callable[..., tuple[Remote, Link]]) -> None:
    """Permission and arguments, in the worker; what is left is carried out by its place."""
    one, link = made(answering())
    tools = Toolbox(Permissions(read=("/nowhere",)), remotes={"hands": one})
    with pytest.raises(PermissionRefused, match="WriteFile needs"):
        tools.call("WriteFile", {"path": "a", "text": "b"})
    with pytest.raises(ToolError, match="ReadFile: path"):
        tools.call("ReadFile", {"path": ""})
    assert link.asked == []
    assert tools.call("ReadFile", {"path": "a"}).value == {
        "call": "ReadFile",
        "path": "a",
        "start": None,
    }
    assert tools.call("AskPerson", {"question": "really?"}).ask == "really?"
