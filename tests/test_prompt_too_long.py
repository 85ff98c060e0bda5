"""An agent whose instructions alone fill the prompt: it rests, and costs no event."""

import json
from pathlib import Path
from typing import Any

from tests.commandline import HELLO, agentd, write_agent
from tests.livehome import Home, a_home

NO_ROOM = HELLO + "[limits]\ncontext_share = 0.0001\n"


def shown(home: Home) -> dict[str, Any]:
    agents = json.loads(agentd(home.root, "status", "--json").stdout)["agents"]
    return dict(next((agent for agent in agents if agent["name"] == "hello"), {}))


def test_instructions_that_do_not_fit_cost_no_event(tmp_path: Path) -> None:
    """It is no event's doing: they wait until a person corrects the file, and go on at once."""
    with a_home(tmp_path / "home") as home:
        home.start()
        before = home.agent()["version"]
        write_agent(home.root, "hello", NO_ROOM)
        home.until(lambda: home.agent().get("version") not in (None, before), "it is accepted")
        home.until(lambda: home.agent().get("state") == "RUNNING", "it runs")
        sent = [int(home.send().stdout.split()[1]) for _ in range(4)]
        home.until(lambda: shown(home)["state"] == "PARKED", "it rests")
        reason = shown(home)["reason"]
        assert "instructions and tools take" in reason and "[limits] context_share" in reason
        assert home.rows("SELECT id FROM dead_letters") == [] and home.model.requests == []
        write_agent(home.root, "hello")
        home.until(lambda: home.answered() == sent, "all is answered")
        home.stop()
