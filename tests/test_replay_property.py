"""Any session that a random model produces with the shipped agents replays identically."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.recordings import recording_file
from agentd.replay.replay import Replay
from agentd.testing import RandomModel
from tests.recorded import World

SEEDS = 8  # 25 take two minutes
TASK = """agent = "task"
done = "The folder was looked at."
subscribe = ["note.changed"]
[params]
instructions = "Look at the folder."
tools = ["ListFiles", "ReadFile", "SearchText", "WriteFile", "HttpGet", "RunCommand", "AskPerson"]
publish = "note.read"
[limits]
turns = 6
result_tokens = {result_tokens}
context_share = {share}
[permissions]
read = ["{folder}"]
write = ["{folder}/out"]
net = ["localhost:1"]
run = ["true"]
[approve]
i_accept_the_risk = true
WriteFile = "allow"
RunCommand = "allow"
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.repo.commit("start", a__py="1\n", docs__md="x\n" * 50)
    world.repo.commit("more", a__py="1\n2\n", **{"sub/b__py": "3\n"})
    (world.notes / "out").mkdir()
    (world.notes / "a.txt").write_text("one\ntwo\n" * 400)
    (world.notes / "b.txt").write_text("<event> & \x0b \u2028\n")
    yield world
    world.close()


def identical(world: World, session: int) -> None:
    """Record the session, write it, read it, replay it: nothing may differ."""
    recording, _ = world.take(session)
    again = recording_file.read(recording_file.write(recording), "x")
    assert again == recording
    code = world.workshop.current(again.config.agent, world.paths, "x")
    replayed = Replay(again, code, world.workshop).run()
    assert replayed.difference is None, f"{replayed.difference}\n{recording_file.write(recording)}"
    given = Replay(again, code, world.workshop, tools="recorded").run()
    assert given.difference is None, f"{given.difference}\n{recording_file.write(recording)}"


@pytest.mark.parametrize("agent", ["repo_fetch", "repo_review"])
def test_random_sessions_of_the_repository_agents(world: World, agent: str) -> None:
    """Whatever they decide, legal as it is, they can be run again."""
    world.shipped("repo_fetch")
    world.publish("agent.trigger", {}, target="repo_fetch")
    world.run("repo_fetch", RandomModel(0))
    world.shipped("repo_review", **{"max_reads = 0": "max_reads = 3"})
    (changed,) = world.events("repo.changed")
    for seed in range(SEEDS):
        if agent == "repo_fetch":
            world.repo.commit(f"commit {seed}", **{f"f{seed}__py": "1\n"})
            world.publish("agent.trigger", {}, target="repo_fetch")
        else:
            world.publish("repo.changed", changed.payload, target="repo_review")
        identical(world, world.run(agent, RandomModel(seed, words=["1", "a.py", "2"])))


@pytest.mark.parametrize(("result_tokens", "share"), [(1000, 0.4), (40, 0.4), (200, 0.1)])
def test_random_sessions_of_a_task(world: World, result_tokens: int, share: float) -> None:
    """All shared tools, results that are cut, contexts that fill up, questions to a person."""
    given = {"folder": world.notes, "result_tokens": result_tokens, "share": share}
    world.write("looker", TASK.format(**given))
    words = ["a.txt", "b.txt", str(world.notes), "out", "out/new.txt", "true", "one"]
    for seed in range(SEEDS):
        session = answered(world, seed, words, 1)
        identical(world, session)


def test_random_sessions_in_which_a_person_is_asked(world: World) -> None:
    """What may be done is asked about, allowed, denied, not answered: all of it replays."""
    given = {"folder": world.notes, "result_tokens": 400, "share": 0.4}
    world.write("looker", TASK.format(**given).split("[approve]")[0])
    words = ["a.txt", "out/new.txt", "true"]
    stages = Counter[str]()
    for seed in range(SEEDS):
        session = answered(world, seed, words, seed)
        identical(world, session)
        stages.update(step.kind for step in world.sessions.archive.show(session)[1])
    assert all(stages[kind] for kind in ("asked", "granted", "denied", "started")), stages


def answered(world: World, seed: int, words: list[str], times: int) -> int:
    """Let an agent decide at random, and a person answer what it asks so many times."""
    world.publish("note.changed", {"path": "a.txt", "seed": seed}, target="looker")
    session = world.run("looker", RandomModel(seed, words=words), window=6000)
    for time in range(times):
        row, steps = world.sessions.archive.show(session)
        if row.question is None:
            break
        says = ("yes", "no", f"no, {seed}")[(seed + time) % 3]
        world.answer(session, says if steps[-1].kind == "asked" else f"yes, {seed}")
        world.run("looker", RandomModel(seed + 1000 * (time + 1), words=words), window=6000)
    return session
