"""What an idle worker leaves unimported."""

import subprocess
import sys

import pytest

from agentd.process import environment
from agentd.process.deferred import deferred

UNUSED = (
    "agentd.llm.baml",
    "agentd.worker.runner",
    "agentd.tools",
    "apscheduler",
    "asyncio",
    "baml_py",
    "email",
    "http.client",
    "importlib.metadata",
    "rich",
    "ssl",
    "subprocess",
    "tempfile",
)


def test_idle_worker_stays_small() -> None:
    """A worker without an event has none of what only events and parents need: 45 MB of it."""
    code = f"import sys, agentd.worker.__main__; print([n for n in {UNUSED!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment.for_child(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "[]\n"


def test_stand_in_becomes_the_module_when_it_is_used() -> None:
    """What was imported with a placeholder works all the same, inside the block and after it."""
    code = """
import sys
from agentd.process.deferred import deferred
with deferred("colorsys", "fractions"):
    import colorsys
    from fractions import Fraction
    assert "colorsys" not in vars(sys.modules["colorsys"])
assert "colorsys" not in sys.modules
assert Fraction(2, 4) == 0.5
assert colorsys.ONE_THIRD == 1 / 3
assert colorsys is not sys.modules["colorsys"]
with deferred("statistics"):
    from statistics import mean
    assert mean([1, 3]) == 2
assert "mean" in vars(sys.modules["statistics"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_loaded_modules_are_left_alone() -> None:
    """A module that is there already is never replaced, and an error leaves no placeholder."""
    with pytest.raises(KeyError), deferred("json", "antigravity"):
        import json

        assert json.loads("1") == 1
        raise KeyError
    assert "antigravity" not in sys.modules
