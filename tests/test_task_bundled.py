"""An agent of columns with the bundled model: it ranks, labels and picks, all of it legal."""

from pathlib import Path

from agentd.config.agent import AgentConfig
from agentd.config.daemon import load_daemon
from agentd.evaluate.cases import Case, CaseFile
from agentd.evaluate.evaluate import Setting, evaluate
from agentd.evaluate.own_server import own_server
from agentd.llm.endpoint import Endpoint
from agentd.paths import discover
from agentd.replay.code import Workshop

DEADLINE_S = 300.0
AGENT = {
    "agent": "task",
    "done": "Each headline is sorted.",
    "params": {
        "instructions": "Sort the headlines.",
        "each": "event.rows",
        "interests": ["astronomy", "gardening"],
    },
    "result": {
        "kind": {"labels": ["science", "politics"]},
        "place": {"pick": "event.places"},
        "mood": {"phrases": {"good": 'Good news: "', "bad": 'Bad news: "'}},
    },
}
HEADLINES = [
    "Parliament votes on pension reform",
    "Black hole at the centre of our galaxy photographed again",
    "Striker signs for record sum",
]


def test_the_bundled_model_ranks_and_chooses(tmp_path: Path, smollm2: Path) -> None:
    """What is of interest comes first, and a session of real answers ends by itself."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    paths.models.rmdir()
    paths.models.symlink_to(smollm2.parent)
    rows = [{"title": title} for title in HEADLINES]
    case = Case(
        name="headlines",
        event="feed.read",
        payload={"rows": rows, "places": ["one", "two"]},
        result={"interest": "astronomy", "place": ["one", "two"], "mood": ["good", "bad"]},
    )
    files = {"headlines": CaseFile(agent=AgentConfig.model_validate(AGENT), case=(case,))}
    config = load_daemon(paths.daemon_file)
    with own_server("smollm2-135m", config, paths, lambda: None) as address, Workshop() as shop:
        endpoint = Endpoint(lambda: address, own=True)
        setting = Setting(endpoint, "smollm2-135m", paths, shop, DEADLINE_S)
        (row,) = evaluate(files, setting)
    score = row.score
    assert (score.args, score.args_of) == (3, 3), row.wrong
    assert score.legal == score.legal_of == len(HEADLINES) and score.ended == 1
