import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import platformdirs
import pytest

from agentd import secret_rules
from agentd.models import store
from agentd.paths import discover
from agentd.testing.tiny_model import make_tiny

# Examples that take long on a busy machine are no failure of what they test.
hypothesis.settings.register_profile(
    "agentd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("agentd")

# A shell without job control lets what it starts in the background ignore Ctrl-C, nohup the end of
# its terminal, and that is inherited: the commands that tests interrupt would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """What a test in this process does to signals is not inherited by what later ones start."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def secrets_as_before() -> Iterator[None]:
    """A secret that a test makes known to its process is none in what later tests write."""
    before = list(secret_rules._known)
    yield
    secret_rules._known[:] = before


@pytest.fixture(autouse=True, scope="session")
def sockets_are_removed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where a home's path is long its sockets lie in /tmp: each home that left some is named."""
    yield
    base = tmp_path_factory.getbasetemp()
    runs = (run for depth in ("*", "*/*", "*/*/*") for run in base.glob(f"{depth}/run"))
    homes = {run.parent.resolve() for run in runs}
    left = [
        f"{home.relative_to(base.resolve())}: {paths.sockets}"
        for home in sorted(homes)
        if (paths := discover({"AGENTD_HOME": str(home)})).sockets_apart and paths.sockets.exists()
    ]
    assert not left, "sockets were left behind by homes of tests:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights: legal answers under a mask, no sense in them."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The bundled model, fetched once and kept between runs in $AGENTD_TEST_CACHE."""
    default = platformdirs.user_cache_dir("agentd-tests", appauthor=False)
    cache = Path(os.environ.get("AGENTD_TEST_CACHE", default))
    return store.pull("smollm2-135m", cache)
