"""Wrong files of every kind beside good agents: refused for next to nothing, and harmless."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from agentd.admission.precheck import Precheck, precheck
from agentd.config.daemon import SupervisorConfig
from agentd.config.toml import BYTES_MAX, read_toml
from agentd.errors import ConfigError
from agentd.paths import Paths, discover
from agentd.supervisor.agents import Agents
from agentd.supervisor.checks import Gate
from agentd.supervisor.restart import Rules
from agentd.supervisor.slot import Slot
from agentd.testing import ManualClock
from tests import bad_drops

FILES = 300
LOG: Any = structlog.get_logger()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    return paths


def test_good_agents_never_restart(tmp_path: Path) -> None:
    """Hundreds of wrong files beside them: all are refused, and a good one's change still works.

    `python -m tests.bad_drops` does the same with 10,000.
    """
    figures = bad_drops.run(tmp_path, FILES, seed=1, with_params=3)
    assert figures["files"] == FILES + 3
    assert figures["good_restarted"] == []
    assert figures["restarts"] == dict.fromkeys(bad_drops.GOOD_NAMES, 0)
    assert figures["rss_after_mb"] < figures["rss_before_mb"] + 60


@pytest.mark.parametrize("kind", bad_drops.KINDS)
def test_a_wrong_file_is_refused_without_a_process(
    paths: Paths, kind: Callable[[Path, random.Random], None]
) -> None:
    """No process, no waiting, no exception: what, where and a hint, of bounded length."""
    kind(paths.agents_d / "bad.toml", random.Random(1))
    seen = precheck("bad", paths)
    assert seen.problem is not None
    assert seen.problem.what and seen.problem.hint and "bad.toml" in seen.problem.where
    assert len(str(seen.problem)) < 8_000


def test_a_good_file_passes(paths: Paths) -> None:
    """With the module that it names; what only code can tell is left to its admission."""
    (paths.agents_d / "good.toml").write_text(bad_drops.GOOD.format(text="x"))
    assert precheck("good", paths) == Precheck("task")
    bad_drops._wrong_params(paths.agents_d / "good.toml", random.Random(1))
    assert precheck("good", paths).problem is None


def test_a_key_that_would_take_minutes_is_refused_at_once(tmp_path: Path) -> None:
    """tomllib needs three minutes for 60,000 dots; the supervisor read such a file itself."""
    for text in ("a." * 30_000 + "a = 1", "[" + '"b" . ' * 10_000 + "b]"):
        path = tmp_path / "deep.toml"
        path.write_text(text)
        with pytest.raises(ConfigError, match="too deeply"):
            read_toml(path)
    path.write_text("a" * (BYTES_MAX - 10))  # nor does the check itself take long
    with pytest.raises(ConfigError, match="TOML"):
        read_toml(path)
    path.write_text('a.b."c.d".e = "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17"')
    assert read_toml(path)["a"]["b"]["c.d"]["e"].startswith("1.2.3")


def test_status_stays_short() -> None:
    """Agents with a version are shown, and new ones; of thousands of refused files the first."""
    clock = ManualClock()
    shared: Any = SimpleNamespace(clock=clock, chance=None, reaper=None, log=LOG)
    agents = Agents(shared, Rules.of(SupervisorConfig()))
    for name in ("zulu", "new", *(f"bad{n:03}" for n in range(250))):
        slot = agents.slots[name] = Slot(name, shared, Rules.of(SupervisorConfig()), None)
        slot.version = "v1" if name == "zulu" else ""
        slot.problem = {"what": "is wrong"} if name.startswith("bad") else None
    shown, unshown = agents.document()
    names = [agent["name"] for agent in shown]
    assert names == [*(f"bad{n:03}" for n in range(199)), "new", "zulu"] and unshown == 51


def test_running_agents_pass_the_gate_first_then_the_latest_comer() -> None:
    """A good agent's change does not wait behind thousands of newcomers."""
    order: list[str] = []

    async def visit(gate: Gate, name: str, first: bool) -> None:
        await gate.enter(first=first)
        order.append(name)
        await asyncio.sleep(0)
        gate.leave()

    async def scenario() -> None:
        gate = Gate(1)
        await gate.enter(first=False)
        tasks = []
        for name, first in (("new1", False), ("run1", True), ("new2", False), ("run2", True)):
            tasks.append(asyncio.create_task(visit(gate, name, first)))
            await asyncio.sleep(0)
        gone = asyncio.create_task(visit(gate, "gone", False))
        await asyncio.sleep(0)
        gone.cancel()
        gate.leave()
        await asyncio.gather(*tasks)
        await gate.enter(first=False)  # a place that was given to nobody is not lost

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert order == ["run1", "run2", "new2", "new1"]
