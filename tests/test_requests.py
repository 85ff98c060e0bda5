"""What children ask the supervisor for: real child processes, a real event loop."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentd.errors import AgentdError
from agentd.process.child import Child
from agentd.process.supervisor_link import SupervisorLink
from agentd.supervisor import requests
from agentd.supervisor.requests import Asker, Handler, Hearing, Requests
from tests.test_channel import open_descriptors

SOON_S = 20.0
CHILD = """
import json, os, socket, sys, threading
from agentd.errors import AgentdError
from agentd.process.child import child_side
from agentd.process.supervisor_link import SupervisorLink
heart = child_side()
link = SupervisorLink.of_environment()
left = [name for name in os.environ if name.startswith("AGENTD_")]
def ask(kind, deadline_s=20, **more):
    try:
        return link.ask({"ask": kind, **more}, deadline_s)[0]
    except AgentdError as error:
        return error.document()
def tell(*answers): heart.answer({"answers": answers})
"""

Talk = Callable[[Child, Hearing], Awaitable[None]]


async def echo(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    return {"name": asker.name, "pid": asker.pid, "said": document.get("said")}, []


async def answer_of(child: Child) -> Any:
    """Return what the child tells by its heart."""
    data = b""
    async with asyncio.timeout(SOON_S):
        while not data.endswith(b"\n"):
            data += child.read(child.heart_fd) or b""
            await asyncio.sleep(0.01)
    return json.loads(data)["answers"]


def talk(tmp_path: Path, code: str, handlers: Mapping[str, Handler], then: Talk) -> None:
    """Run `code` in a child that is heard, and `then` in the loop beside it."""

    async def run() -> None:
        child = Child.spawn("one", [sys.executable, "-c", CHILD + code], tmp_path, control=True)
        log: Any = structlog.get_logger()
        assert child.control is not None
        hearing = Requests(handlers, lambda asker: None, log).hear(
            child.control, Asker("one", "v", child.pid)
        )
        try:
            await then(child, hearing)
        finally:
            hearing.end()
            child.kill()
            async with asyncio.timeout(SOON_S):
                while child.poll() is None:
                    await asyncio.sleep(0.01)
            child.close()

    asyncio.run(run())


def told(tmp_path: Path, code: str, handlers: Mapping[str, Handler]) -> Any:
    """Return what the child tells at the end."""
    found: list[Any] = []

    async def wait(child: Child, _: Hearing) -> None:
        found.extend(await answer_of(child))

    talk(tmp_path, code, handlers, wait)
    return found


def test_a_child_is_answered_by_who_it_is(tmp_path: Path) -> None:
    """The name is the supervisor's: what the message says of itself counts for nothing."""
    code = "tell(ask('echo', said=1, name='another'), ask('echo', said=2), os.getpid(), left)"
    one, two, pid, left = told(tmp_path, code, {"echo": echo})
    assert one == {"ok": True, "name": "one", "pid": pid, "said": 1}
    assert two["said"] == 2
    assert left == [], "what it starts inherits nothing"


def test_a_descriptor_is_handed_over(tmp_path: Path) -> None:
    """It is the child's from then on, and the supervisor keeps none."""
    (tmp_path / "a.txt").write_text("hello")
    with (tmp_path / "a.txt").open() as file:

        async def give(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
            return {}, [os.dup(file.fileno())]

        code = "fds = link.ask({'ask': 'file'})[1]; tell(os.read(fds[0], 10).decode(), len(fds))"
        assert told(tmp_path, code, {"file": give}) == ["hello", 1]
        assert open_descriptors(file.fileno()) == 1


def test_what_goes_wrong_is_told_to_the_child_alone(tmp_path: Path) -> None:
    """An unknown word, a refusal, a fault of a handler: one clear error, and the next is heard."""

    async def refuse(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        raise AgentdError("no", where="here", hint="do that")

    async def fail(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        return {"x": document["missing"]}, []

    handlers: dict[str, Handler] = {"refuse": refuse, "fail": fail, "echo": echo}
    code = "tell(ask('refuse'), ask('fail'), ask(['x']), ask('nothing'), ask('echo')['ok'])"
    refused, failed, odd, unknown, ok = told(tmp_path, code, handlers)
    assert refused == {"what": "no", "where": "here", "hint": "do that"}
    assert "a fault of agentd itself: KeyError" in failed["what"]
    assert "nobody here answers \"['x']\"" in odd["what"]
    assert "nobody here answers 'nothing'" in unknown["what"]
    assert ok


def test_an_answer_that_came_too_late_is_no_other_ones(tmp_path: Path) -> None:
    """A request that was given up is not mistaken for the next one's answer."""

    given_up = tmp_path / "given_up"

    async def slow(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        async with asyncio.timeout(SOON_S):
            while not given_up.exists():
                await asyncio.sleep(0.01)
        return {"slow": True}, [os.dup(0)]

    code = f"late = ask('slow', 0.05); open({str(given_up)!r}, 'w').close()\n"
    code += "tell(late, ask('echo', said=2)['said'], len(os.listdir('/dev/fd')) < 12)"
    late, said, closed = told(tmp_path, code, {"slow": slow, "echo": echo})
    assert "did not answer within 0.05 s" in late["what"]
    assert said == 2
    assert closed


def test_a_slow_handler_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The event loop goes on, and who asked may end meanwhile: the handler is given up."""
    given_up = asyncio.Event()

    async def for_ever(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return {}, []

    async def then(child: Child, hearing: Hearing) -> None:
        async with asyncio.timeout(SOON_S):
            while hearing._task is None:
                await asyncio.sleep(0.01)
            hearing.end()
            await given_up.wait()

    talk(tmp_path, "heart.beat(5); ask('for_ever')", {"for_ever": for_ever}, then)


@pytest.mark.parametrize(
    "code",
    [
        "link._channel._socket.send(b'\\xff' * 100)",  # no length that a frame may have
        "link._channel._socket.send(b'\\0\\0\\0\\2[]')",
        # Never reads an answer: its own requests are what fills the socket.
        "[link._channel.send({'ask': 'large', 'id': n}) for n in range(10_000)]",
    ],
)
def test_garbage_and_answers_that_nobody_reads_end_the_hearing(tmp_path: Path, code: str) -> None:
    """The child is heard no more, and its next request fails at once; all else goes on."""

    async def large(asker: Asker, document: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        return {"text": "x" * 50_000}, []

    code = f"try: {code}\nexcept OSError: pass\ntell(ask('echo'))"
    (answer,) = told(tmp_path, code, {"echo": echo, "large": large})
    assert answer["what"] == "the supervisor is gone"


def test_who_asks_without_end_is_read_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood waits in the child's own socket: the supervisor answers so many in a time."""
    monkeypatch.setattr(requests, "BURST", 5)
    monkeypatch.setattr(requests, "BURST_S", 0.3)
    code = (
        "import time; start = time.monotonic()\n"
        "for _ in range(11): ask('echo')\n"
        "tell(time.monotonic() - start)"
    )
    (took_s,) = told(tmp_path, code, {"echo": echo})
    assert took_s > 0.29, "the second window whole"


def test_descriptors_of_a_child_are_closed(tmp_path: Path) -> None:
    """It cannot use up those of the supervisor."""
    path = tmp_path / "a.txt"
    path.touch()
    code = (
        f"fd = os.open({str(path)!r}, os.O_RDONLY)\n"
        "for _ in range(50): link._channel.send({'ask': 'echo', 'id': 0}, [fd, fd])\n"
        "tell(1)"
    )

    async def then(child: Child, hearing: Hearing) -> None:
        await answer_of(child)
        with path.open() as file:
            assert open_descriptors(file.fileno()) < 20

    talk(tmp_path, code, {"echo": echo}, then)


def test_without_a_supervisor_one_clear_error_says_so() -> None:
    """Started by hand, or in a test."""
    link = SupervisorLink.of_environment({})  # type: ignore[arg-type]
    assert not link.there
    with pytest.raises(AgentdError, match="no supervisor to ask for hands"):
        link.ask({"ask": "hands"})
