"""Replaying: real agents, tools and loop; the model that was recorded is a fake server."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.clock import SystemClock
from agentd.config.agent import Permissions
from agentd.errors import ConfigError, UsageError
from agentd.events import Lane
from agentd.recordings import recording_file as text
from agentd.replay.offline import Offline
from agentd.replay.sources import of_file
from agentd.sessions.session import Session
from agentd.sessions.steps import Step, StepKind
from agentd.states import SessionState
from agentd.testing import Reply, Request
from tests.pdf_files import pdf
from tests.pdf_files import text as text_of
from tests.recorded import FETCHED, READING, World, done, fetch, read, reader, review
from tests.site import site
from tests.test_reading import EVENTS, META, rss


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (world.notes / "a.txt").write_text("buy milk\nand bread\n")
    yield world
    world.close()


def identical(world: World, session: int, given: int = 0) -> None:
    """Record the session, and replay what its file says."""
    recording, outcome = world.take(session)
    assert outcome.difference is None, outcome.difference
    again = text.read(text.write(recording), "x")
    assert again == recording
    assert world.replay(again).difference is None
    assert len(recording.given) == given


def test_a_session_replays_identically_from_its_file(world: World) -> None:
    """Recorded, written, read back and replayed: the same prompts, results and events."""
    for session in (fetch(world), review(world)):
        identical(world, session)


def test_a_recording_needs_nothing_of_its_machine(world: World) -> None:
    """The repository and the files that were read come with it."""
    sessions = (
        fetch(world),
        review(world),
        reader(
            world,
            [
                {"tool": "list_files", "path": str(world.notes)},
                read("a.txt"),
                {"tool": "search_text", "path": "", "text": "milk"},
                done(),
            ],
        ),
    )
    recordings = [world.take(session)[0] for session in sessions]
    assert [recording.given for recording in recordings] == [frozenset()] * 3
    shutil.rmtree(world.repo.path)
    shutil.rmtree(world.notes)
    for recording in recordings:
        outcome = world.replay(recording)
        assert outcome.difference is None and outcome.given == 0


def test_the_daemons_files_stay_as_they_are(world: World) -> None:
    """A replay publishes nothing, steps no cursor, remembers nothing, builds no version."""
    session = fetch(world)
    recording, _ = world.take(session)

    def everything() -> Any:
        tables = ("outbox", "cursors", "facts", "sessions", "steps", "deliveries", "dead_letters")
        rows = [world.bus.db.run(f"SELECT * FROM {table}") for table in tables]
        return rows, sorted(world.paths.versions.rglob("*"))

    before = everything()
    assert world.replay(recording).identical
    assert everything() == before


def test_a_cut_session_replays_with_its_cut(world: World) -> None:
    """Where a session was cut off and resumed, so is its replay: the guards begin anew there."""
    same = read("a.txt")

    def first(request: Request) -> Any:
        if len(world.requests) == 3:
            world.cut()
            return Reply(hang=True)
        return same

    session = reader(world, first)
    assert world.sessions.archive.show(session)[0].state is SessionState.RUNNING
    assert world.run("reader", [same, done()]) == session
    _, steps = world.sessions.archive.show(session)
    assert {step.attempt for step in steps} == {1, 2}
    identical(world, session)


def test_an_interrupted_tool_is_not_run_in_the_replay(world: World) -> None:
    """What was cut off in the middle and may not run twice was told to the model; it is again."""

    def stop(request: Request) -> Any:
        world.cut()
        return Reply(hang=True)

    session = reader(world, stop)
    lane = Lane("reader", True)
    event = world.bus.next(lane)
    assert event is not None
    killed = world.sessions.begin(
        lane, event, world.worker.accepted.code_hash, world.worker.config.limits
    )
    assert isinstance(killed, Session)
    args = {"program": "true", "args": [str(world.notes)]}
    raw = f'{{"tool":"run_command","program":"true","args":["{world.notes}"]}}'
    world.sessions.journal.record(
        killed, Step(StepKind.DECISION, "RunCommand", args, idempotent=False, raw=raw)
    )
    assert world.run("reader", [done()]) == session
    _, steps = world.sessions.archive.show(session)
    assert "interrupted" in steps[2].payload["error"]
    identical(world, session)


def test_a_persons_answer_is_given_again(world: World) -> None:
    """A parked session asks the same question, and goes on with the recorded answer."""
    ask = {"tool": "ask_person", "question": "Which note?"}
    session = reader(world, [ask])
    identical(world, session)  # still parked
    world.answer(session, "a.txt")
    world.run("reader", [read("a.txt"), done()])
    identical(world, session)


def test_a_failed_session_fails_again_in_the_same_way(world: World) -> None:
    """A model that answered nonsense, and a module that raised, are replayed as failures."""
    identical(world, reader(world, ["no decision at all"]))  # type: ignore[list-item]
    world.paths.agents.joinpath("task.py").write_text(
        (Path(__file__).parents[1] / "agents" / "task.py")
        .read_text()
        .replace('file says."""', 'file says."""\n\n    def finish(self, *_): {}["missing"]')
    )
    session = reader(world, [done()])
    error = world.sessions.archive.show(session)[0].error
    assert error is not None and error.startswith("KeyError: 'missing'")
    identical(world, session)


def test_a_failure_after_a_note_is_replayed(world: World) -> None:
    """A note that was said and never written, since the call after it failed, is no difference."""
    same = read("a.txt")
    session = reader(world, [same, same, same, same])
    row, steps = world.sessions.archive.show(session)
    assert row.state is SessionState.FAILED and all(step.kind != "note" for step in steps)
    identical(world, session)


def test_a_result_that_is_another_now_is_shown(world: World) -> None:
    """A tool that answers otherwise is found at its turn, with both sides."""
    recording, _ = world.take(fetch(world))
    changed = text.write(recording).replace('"commits":1,"files":2', '"commits":1,"files":3', 1)
    outcome = world.replay(text.read(changed, "x"))
    difference = outcome.difference
    assert difference is not None
    assert (difference.turn, difference.what) == (1, "result of FetchRepo")
    assert '-  "files": 3,' in difference.lines() and '+  "files": 2,' in difference.lines()


def test_a_changed_prompt_is_shown_with_its_file(world: World) -> None:
    """The first difference of a changed prompt is the prompt, and the hint names what changed."""
    recording, _ = world.take(fetch(world))
    shipped = Path(__file__).parents[1] / "baml_src" / "repo_fetch.baml"
    changed = shipped.read_text().replace("Fetch once", "Fetch one time")
    (world.paths.baml_src / "repo_fetch.baml").write_text(changed)
    difference = world.replay(recording).difference
    assert difference is not None and difference.what == "the prompt"
    assert "baml_src/repo_fetch.baml" in difference.hint
    assert any(line.startswith("+Fetch one time") for line in difference.lines())


def test_changed_code_with_the_same_behaviour_is_identical(world: World) -> None:
    """It is the behaviour that is compared, not the code; another event is a difference."""
    recording, _ = world.take(review(world)) if fetch(world) else (None, None)
    assert recording is not None
    module = (Path(__file__).parents[1] / "agents" / "repo_review.py").read_text()
    (world.paths.agents / "repo_review.py").write_text(f"{module}\n# another line\n")
    assert world.replay(recording).identical
    changed = module.replace("risk=risk,", 'risk="high",')
    (world.paths.agents / "repo_review.py").write_text(changed)
    difference = world.replay(recording).difference
    assert difference is not None and difference.what == "what is published at the end"
    assert "agent.py" in difference.hint


def test_changed_limits_show_at_the_turn_that_they_change(world: World) -> None:
    """A recorded configuration may be replaced by another one, as for a session's own agent."""
    recording, _ = world.take(fetch(world))
    config = recording.config
    limits = config.limits.model_copy(update={"turns": 1})
    outcome = world.replay(recording, config=config.model_copy(update={"limits": limits}))
    assert outcome.difference is not None
    assert (outcome.difference.turn, outcome.difference.what) == (1, "note")


def test_a_file_that_changed_since_is_taken_as_recorded(world: World) -> None:
    """What no fixture can reproduce any more is marked, and its recorded result taken."""
    session = reader(world, [read("a.txt"), done()])
    (world.notes / "a.txt").write_text("something else\n")
    identical(world, session, given=1)


def test_effects_are_not_repeated(world: World) -> None:
    """Writing and running give their recorded results; what was written can be read again."""
    session = reader(
        world,
        [
            {"tool": "write_file", "path": "new.txt", "text": "written"},
            read("new.txt"),
            {"tool": "run_command", "program": "date", "args": ["+%N"]},
            done(),
        ],
    )
    recording, _ = world.take(session)
    (world.notes / "new.txt").unlink()
    outcome = world.replay(recording)
    assert outcome.difference is None and outcome.given == 2
    assert not (world.notes / "new.txt").exists()


def test_live_effects_are_carried_out_and_compared(world: World) -> None:
    """With live effects the program runs, and what it says otherwise is a difference."""
    session = reader(world, [{"tool": "run_command", "program": "date", "args": ["+%N"]}, done()])
    recording, _ = world.take(session)
    may = Permissions(run=("date",))
    difference = world.replay(recording, live_effects=True, installed=may).difference
    assert difference is not None and difference.what == "result of RunCommand"


def test_a_recording_gives_no_rights(world: World, tmp_path: Path) -> None:
    """What may be done for real is what the installed agent may, whatever a recording says."""
    mark = tmp_path / "mark"
    touch = {"tool": "run_command", "program": "date", "args": ["+%s"]}
    recording, _ = world.take(reader(world, [touch, done()]))
    evil = text.write(recording).replace('"date"', '"touch"').replace("+%s", str(mark))
    evil = evil.replace('\\"program\\":\\"date\\"', '\\"program\\":\\"touch\\"')
    evil = evil.replace('\\"program\\": \\"date\\"', '\\"program\\": \\"touch\\"')
    file = tmp_path / "evil.recording"
    file.write_text(evil)
    assert '"touch"' in evil and "touch" in [
        step.payload.get("program") for step in text.load(file).steps
    ]
    source = of_file(file, world.paths, world.workshop)
    source.replay(world.workshop, live_effects=True)
    assert not mark.exists(), "date and true may be run here, touch may not"
    toml = world.paths.agents_d / "reader.toml"
    toml.write_text(toml.read_text().replace('run = ["date", "true"]', 'run = ["touch"]'))
    source.replay(world.workshop, live_effects=True)
    assert mark.exists(), "what the recording does is permitted here"
    other = world.paths.agents_d / "other.toml"
    toml.rename(other)
    with pytest.raises(UsageError, match="need the installed agent 'reader'"):
        source.replay(world.workshop, live_effects=True)
    other.write_text('agent = "repo_review"\ndone = "It is reviewed."\n')
    other.rename(toml)
    with pytest.raises(UsageError, match="need the installed agent 'reader'"):
        source.replay(world.workshop, live_effects=True)
    assert source.replay(world.workshop).turns, "without effects no agent is needed"


def test_a_recorded_permission_stays_in_the_fixture(world: World) -> None:
    """Also one that begins there and leads out, by `..`."""
    secret = world.root / "secret.txt"
    secret.write_text("hush")
    recording, _ = world.take(reader(world, [read("a.txt"), done()]))
    climb = f"{world.notes}/" + "../" * 20
    permissions = {**recording.head.config["permissions"], "read": [str(world.notes), climb]}
    config = {**recording.head.config, "permissions": permissions}
    head = recording.head.model_copy(update={"config": config})
    evil = text.write(replace(recording, head=head)).replace(r"\"a.txt\"", rf"\"{secret}\"")
    assert evil.count(str(secret)) == 1
    outcome = world.replay(text.read(evil, "x"))
    assert outcome.difference is not None and "outside of what may" in outcome.difference.now


def test_a_recordings_agent_name_is_no_path(world: World, tmp_path: Path) -> None:
    """It is looked up in agents.d."""
    recording, _ = world.take(reader(world, [read("a.txt"), done()]))
    file = tmp_path / "x.recording"
    file.write_text(text.write(recording).replace('"agent": "reader"', '"agent": "../../x"', 1))
    with pytest.raises(ConfigError, match="cannot name an agent"):
        of_file(file, world.paths, world.workshop)


def test_all_results_can_be_taken_as_recorded(world: World) -> None:
    """Then only prompts, decisions and the end are compared."""
    recording, _ = world.take(fetch(world))
    changed = text.write(recording).replace('"commits":1,"files":2', '"commits":1,"files":3', 1)
    outcome = world.replay(text.read(changed, "x"), tools="recorded")
    assert outcome.given == 1
    assert outcome.difference is not None and outcome.difference.what == "the outcome"


class Website(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/old":
            self.send_response(302)
            self.send_header("Location", "/new")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write("Grüße <b>& more</b>".encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_pages_are_recorded_and_the_network_is_off(world: World) -> None:
    """A page and its redirect are answered from the recording when the server is long gone."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Website)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    host = f"localhost:{server.server_address[1]}"
    session = reader(world, [{"tool": "http_get", "url": f"http://{host}/old"}, done()], host=host)
    server.shutdown()
    server.server_close()
    thread.join()
    recording, _ = world.take(session)
    page = recording.fixture.pages[f"http://{host}/old"]
    assert page.url == f"http://{host}/new" and "Grüße" in page.text
    outcome = world.replay(recording)
    assert outcome.difference is None and outcome.given == 0


def test_what_was_read_of_the_day_is_taken_as_recorded(world: World) -> None:
    """Pages, feeds, calendars, PDF files, without network, clock or file; and what it remembers."""
    (world.notes / "a.ics").write_text(EVENTS)
    (world.notes / "a.pdf").write_bytes(pdf([text_of("An invoice")]))
    with site() as web:
        feed = web.url("/feed", "text/xml", rss("a"))
        page = web.url("/a", "text/html", META)
        answers: list[dict[str, Any]] = [
            {"tool": "read_page", "url": page, "start": None},
            {"tool": "read_feed", "url": feed},
            {"tool": "read_calendar", "source": "a.ics", "days": None},
            {"tool": "read_pdf", "path": "a.pdf", "pages": None},
            done(),
        ]
        session = reader(world, answers, host=web.host, tools=READING)
    (known,) = world.bus.facts.of("reader").values()
    assert known["title"] == "News" and len(known["ids"]) == 1
    recording, _ = world.take(session)
    assert "An invoice" in str(recording.steps) and not recording.fixture.files
    for name in ("a.ics", "a.pdf"):
        (world.notes / name).unlink()
    outcome = world.replay(recording)
    assert outcome.difference is None and outcome.given == 4


def test_an_agents_own_connections_are_refused(world: World) -> None:
    """Code that reaches for the network in a replay fails there, whatever it uses."""
    recording, _ = world.take(fetch(world))
    module = (Path(__file__).parents[1] / "agents" / "repo_fetch.py").read_text()
    reach = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    changed = module.replace("        result = self._look()\n", f"        {reach}\n")
    (world.paths.agents / "repo_fetch.py").write_text(changed)
    difference = world.replay(recording).difference
    assert difference is not None and "the network is off here" in difference.now
    assert issubclass(Offline, Exception)


def test_volatile_fields_take_their_recorded_values(world: World) -> None:
    """What an agent declares to differ from run to run does not count; nothing else is left out."""
    module = (Path(__file__).parents[1] / "agents" / "repo_fetch.py").read_text()
    timed = "import time; value['at'] = time.monotonic()"
    changed = module.replace(
        "        events = self._events(tip", f"        {timed}\n        events = self._events(tip"
    )
    (world.paths.agents / "repo_fetch.py").write_text(changed)
    session = fetch(world)
    recording, _ = world.take(session)
    assert recording.given == {3}, "undeclared, it can only be taken as recorded"
    volatile = 'volatile = frozenset({"FetchRepo.at"})'
    declared = changed.replace('function = "RepoFetch"', f'function = "RepoFetch"\n    {volatile}')
    (world.paths.agents / "repo_fetch.py").write_text(declared)
    world.publish("agent.trigger", {}, target="repo_fetch")
    world.repo.commit("again", d__py="4\n")
    session = world.run("repo_fetch", FETCHED)
    identical(world, session)


def test_time_passes_as_recorded(world: World) -> None:
    """A session that ran out of time does so again, at the same turn, in no time."""
    world.write("slow", READER_OF_LITTLE_TIME.format(folder=world.notes))
    world.publish("note.changed", {}, target="slow")
    clock = Hasty()

    def answer(request: Request) -> Any:
        if len(world.requests) == 2:
            clock.ahead_s = 31.0
            return read("a.txt", 2)
        return read("a.txt") if len(world.requests) == 1 else done()

    session = world.run("slow", answer, clock=clock)
    _, steps = world.sessions.archive.show(session)
    assert [step.payload for step in steps if step.kind == "note"] == [
        {"text": "time is up: decide Done now"}
    ]
    identical(world, session)


class Hasty(SystemClock):
    """The system's, or ahead of it."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


READER_OF_LITTLE_TIME = """agent = "task"
done = "The note that was asked for is read."
subscribe = ["note.changed"]
[params]
instructions = "Read the note."
tools = ["ReadFile"]
[limits]
deadline = "30s"
[permissions]
read = ["{folder}"]
"""
