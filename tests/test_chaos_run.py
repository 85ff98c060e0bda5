"""The chaos test as it runs at every change: sixty kills of anything, then the audit."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import OUTPUTS
from tests.chaos.audit import audit, delivered
from tests.chaos.havoc import Havoc
from tests.chaos.home import Home

KILLS, SEED = 60, 20


@pytest.mark.timeout(400)  # a loaded machine; it takes a minute or two
def test_sixty_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """The promise of the README, in small: all kinds of processes, results in their file."""
    home = Home(tmp_path)
    home.serve()
    home.create()
    havoc = Havoc(home, SEED)
    havoc.run(KILLS)
    report = audit(home.paths.database, home.journal, OUTPUTS)
    assert havoc.problems == []
    assert report.problems == [], report
    assert delivered(home.paths.database, home.days) == []
    assert list(home.days.glob("*.md"))
    assert home.fetched > 10
    assert report.counts["sessions"] > 10 and report.counts["resumed"] > 0, report
