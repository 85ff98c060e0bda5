"""Who asks the model server: agents by their links, others by the token or by a socket."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ConfigError, StorageError
from agentd.llm.address import Address, fetch
from agentd.llm.endpoint import Endpoint
from agentd.llm.model_link import by_path
from agentd.model_server.calls import Call, Full
from agentd.model_server.engine.queue import FairQueue
from agentd.model_server.http.connection_limits import OF_AN_AGENT_MAX, PLACES, STRANGERS_MAX
from agentd.model_server.protocols import Language
from agentd.model_server.token_file import TokenFile
from agentd.states import Priority
from agentd.testing.tiny_model import ScriptedEngine
from tests.serving import NAME, Serving, serving, wait_for
from tests.test_model_server import start

URL = "http://127.0.0.1:9/v1"  # nobody is there: what goes by a link never looks at it
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving(lambda _language: ScriptedEngine(slots=4)) as found:
        yield found


def test_whose_a_request_is_says_its_connection(server: Serving) -> None:
    """No header, and no token, makes anybody an agent; an agent's own requests need neither."""
    forged = {"X-Agentd-Agent": "two", "X-Agentd-Session": "7", "Authorization": "Bearer wrong"}
    one = server.link("one")
    assert server.chat(forged, one)[0] == 200
    assert server.chat(None, one)[0] == 200
    assert server.chat({"X-Agentd-Agent": "one"})[0] == 200
    assert server.chat()[0] == 200
    names = [line["agent"] for line in server.log.of("request.finished")]
    assert names == ["one", "one", "other:one", "model"]


def test_this_users_programs_need_no_token_by_the_socket(server: Serving, tmp_path: Path) -> None:
    """Its folder is theirs alone. What they say of themselves makes no agent of them either."""
    path = str(tmp_path / "model.sock")
    for _ in range(2):  # made again, it takes the place of the first one
        with socket.socket(socket.AF_UNIX) as listening:
            Path(path).unlink(missing_ok=True)
            listening.bind(path)
            listening.listen()
            server.control.send({}, [listening.fileno()])
        address = Address(URL, NAME, connect=lambda waiter: by_path(path, waiter))
        wait_for(lambda: fetch(address, "/ready", 5.0), "it answers")  # noqa: B023
    headers = {"X-Agentd-Agent": "one"}
    Endpoint(lambda: address, own=True).chat(CHAT, headers, deadline_s=20, progress=lambda: None)
    assert [line["agent"] for line in server.log.of("request.finished")] == ["other:one"]


def test_the_port_alone_still_wants_the_token(server: Serving) -> None:
    """Links and socket change nothing for who comes by it."""
    assert server.exchange("GET", "/ready", token=None)[0] == 401
    assert server.exchange("GET", "/ready", token="wrong")[0] == 401
    assert server.exchange("GET", "/ready")[0] == 200


def test_an_agent_is_let_in_where_others_took_all_places(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many connections as may be, with the token and without, keep no agent out."""
    monkeypatch.setattr("agentd.model_server.http.app.BODY_S", 300.0)  # no body ever comes
    with contextlib.ExitStack() as stack:
        connections = server.http_side.server_state.connections
        for number in range(PLACES + STRANGERS_MAX):
            connection = server.connect()
            stack.callback(connection.close)
            token = {"Authorization": "Bearer test-token"} if number < PLACES else {}
            connection.request("POST", "/v1/chat/completions", None, {**token, "Content-Length": 1})
            wait_for(lambda: sum(c._known for c in list(connections)) > min(number, PLACES - 1))  # type: ignore[union-attr]  # noqa: B023
        wait_for(lambda: server.exchange("GET", "/ready")[0] == 503, "all places are taken")
        assert server.exchange("GET", "/ready", link=server.link("one"))[0] == 200


def test_an_agent_has_few_connections(server: Serving) -> None:
    """And one link, however often it asks. What its own code leaves open costs nobody else."""
    link = server.link("one")
    with contextlib.ExitStack() as stack:
        for _ in range(OF_AN_AGENT_MAX):
            connection = server.connect(link)
            stack.callback(connection.close)
            connection.request("GET", "/ready")
            assert connection.getresponse().read()
        second = server.link("one")
        with pytest.raises(OSError):
            server.exchange("GET", "/ready", link=second)
        with pytest.raises(OSError):
            server.connect(link)
        assert server.exchange("GET", "/ready", link=server.link("two"))[0] == 200
    wait_for(lambda: not server.http_side.server_state.connections, "they are closed")
    assert server.exchange("GET", "/ready", link=second)[0] == 200


def test_what_is_no_connection_is_let_go(server: Serving, tmp_path: Path) -> None:
    """An agent's own code may send anything by its link: files, listening sockets, bytes alone."""
    assert server.exchange("GET", "/ready")[0] == 200  # its event loop has all descriptors now
    before = len(list(Path("/dev/fd").iterdir()))
    link = server.link("one")
    with (
        (tmp_path / "file").open("w") as file,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unconnected,
    ):
        fds = [file.fileno(), tcp.fileno(), unconnected.fileno()]
        socket.send_fds(link._socket, [b"\0"], fds)
        link._socket.send(b"garbage")
        heard = bytearray()

        def all_taken() -> bool:
            with contextlib.suppress(BlockingIOError):
                heard.extend(link._socket.recv(64))
            return len(heard) == len(b"\0garbage")

        wait_for(all_taken, "all is taken")
    assert server.exchange("GET", "/ready", link=server.link("one"))[0] == 200
    link._socket.close()
    wait_for(lambda: len(list(Path("/dev/fd").iterdir())) <= before, "nothing is left open")


def guest(agent: str, priority: Priority = Priority.EVENT, weight: int = 5) -> Call:
    return Call([], lambda _: None, agent=agent, priority=priority, weight=weight, guest=True)


def ours(agent: str, priority: Priority = Priority.EVENT, weight: int = 5) -> Call:
    return Call([], lambda _: None, agent=agent, priority=priority, weight=weight)


def test_other_programs_have_every_second_turn_at_most() -> None:
    """Whatever they say of themselves, an agent's schedule goes on beside a flood of them."""
    queue = FairQueue(100)
    for number in range(6):
        queue.put(guest(f"other:{number}", Priority.PERSON, weight=1))
    for agent in ("a", "b"):
        queue.put(ours(agent, Priority.SCHEDULE, weight=9))
    order = []
    while call := queue.next():
        queue.take(call)
        order.append(call.agent)
    assert order == ["other:0", "a", "other:1", "b", *(f"other:{n}" for n in range(2, 6))]


def test_a_person_of_another_program_goes_before_programs_and_no_agent() -> None:
    """Its word counts among its like."""
    queue = FairQueue(100)
    queue.put(guest("program"))
    queue.put(guest("person", Priority.PERSON))
    queue.put(ours("agent", weight=1))
    queue.put(ours("mine", Priority.PERSON))
    order = []
    while call := queue.next():
        queue.take(call)
        order.append(call.agent)
    assert order == ["mine", "agent", "person", "program"]


def test_a_full_queue_has_room_for_agents() -> None:
    """A guest that waits gives way to any of them, and takes nobody's place but its like's."""
    queue = FairQueue(2)
    person, program = guest("person", Priority.PERSON), guest("program", Priority.SCHEDULE)
    queue.put(person)
    queue.put(program)
    first = ours("first", Priority.SCHEDULE)
    assert queue.put(first) is program
    assert queue.put(ours("second", Priority.SCHEDULE)) is person
    with pytest.raises(Full):
        queue.put(guest("late", Priority.PERSON))


@pytest.mark.parametrize("agents", [(), ("one", "two")])
def test_other_programs_have_half_of_the_slots_once_there_are_agents(
    agents: tuple[str, ...],
) -> None:
    """Their long answers would hold all of them for minutes; alone they may have all."""
    go, together = threading.Event(), []

    def load(_language: Language) -> ScriptedEngine:
        assert go.wait(20)
        return ScriptedEngine(slots=4, before_step=lambda calls: together.append(list(calls)))

    with serving(load, wait_ready=False) as server:
        wait_for(lambda: server.runner.language)
        threads = [start(server) for _ in range(6)]
        links = [server.link(name) for name in agents]
        threads += [start(server, link=link) for link in links]
        wait_for(lambda: server.runner.waiting() == len(threads), "all wait")
        go.set()
        for thread in threads:
            thread.join(20)
    guests = [sum(call.guest for call in calls) for calls in together]
    assert max(guests) == (2 if agents else 4)
    assert {call.agent for call in together[0] if not call.guest} == set(agents)


def test_a_renewed_token_holds_at_once(tmp_path: Path) -> None:
    """Also for a connection that showed the old one; what is in flight is not disturbed."""
    file = tmp_path / "token"
    write(file, "first")
    with serving(lambda _language: ScriptedEngine(), token=TokenFile(file)) as server:
        kept = server.connect()

        def ready(token: str) -> int:
            kept.request("GET", "/ready", headers={"Authorization": f"Bearer {token}"})
            reply = kept.getresponse()
            reply.read()
            return reply.status

        assert ready("first") == 200
        write(file, "second")
        assert (ready("first"), ready("second")) == (401, 200)
        file.unlink()
        assert (ready("first"), ready("second")) == (401, 200)  # until it is written again
        write(file, "third")
        file.chmod(0o644)
        assert (ready("second"), ready("third")) == (200, 401)  # others may have read it
        file.chmod(0o600)
        assert (ready("second"), ready("third")) == (401, 200)
        kept.close()


def write(file: Path, token: str) -> None:
    new = file.with_suffix(".new")
    new.touch(0o600)
    new.write_text(token)
    new.replace(file)


def test_a_token_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """It says what is wrong with the file."""
    file = tmp_path / "token"
    with pytest.raises(StorageError, match="cannot be read"):
        TokenFile(file)
    write(file, " \n")
    with pytest.raises(ConfigError, match="is empty"):
        TokenFile(file)
    file.write_text("t")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        TokenFile(file)


def test_a_link_ends_with_its_server(server: Serving) -> None:
    """Its agent is told at once, and asks for another one."""
    found: list[Any] = []

    def find() -> Address:
        found.append(server.link("one"))
        return Address(URL, NAME, connect=found[-1].connect)

    endpoint = Endpoint(find, own=True)
    for _ in range(2):
        endpoint.chat(CHAT, {}, deadline_s=20, progress=lambda: None)
    assert len(found) == 1
    found[0]._socket.close()
    endpoint._wire._let_go()  # a server that ends closes its connections as well
    endpoint.chat(CHAT, {}, deadline_s=20, progress=lambda: None)
    assert len(found) == 2
    assert [line["agent"] for line in server.log.of("request.finished")] == ["one"] * 3
