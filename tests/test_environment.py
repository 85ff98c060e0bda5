"""What children see of the environment: an allow-list, and no secret of the person's shell."""

import sys
from pathlib import Path

import psutil
import pytest

from agentd.process import environment
from agentd.process.child import Child
from tests.supervised import daemon, wait_for
from tests.test_supervisor import pull_model

SECRETS = (
    *("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "DATABASE_URL"),
    *(
        "AGENTD_API_KEY",
        "AGENTD_TOKEN",
        "SSH_AUTH_SOCK",
        "GIT_DIR",
        "PGPASSWORD",
        "LCX",
        "BASH_ENV",
    ),
    *(
        "https_proxy",
        "HF_HUB_TOKEN",
        "UV_INDEX_URL",
        "PYTHONSTARTUP",
        "PYTHONINSPECT",
        "KUBECONFIG",
    ),
)
NEEDED = {
    "HOME": "/h",
    "PATH": "/p",
    "LANG": "C",
    "LC_TIME": "C",
    "TZ": "UTC",
    "TMPDIR": "/t",
    "USER": "u",
    "AGENTD_HOME": "/a",
    "AGENTD_LAUNCHD": "1",
    "XDG_DATA_HOME": "/x",
    "SSL_CERT_FILE": "/c",
}
TUNING = {"OPENBLAS_NUM_THREADS": "1", "MLX_X": "1", "HF_HOME": "/m", "OMP_NUM_THREADS": "2"}


def test_each_child_gets_what_it_needs_and_no_secret() -> None:
    """Places, language and time for all; what tunes the model's libraries for its server alone."""
    full = {**dict.fromkeys(SECRETS, "secret"), **NEEDED, **TUNING}
    assert environment.for_child(full) == NEEDED | environment.ALWAYS
    assert environment.for_model_server(full) == NEEDED | TUNING | environment.ALWAYS


def environment_of(pid: int) -> dict[str, str]:
    """Return what a process was given; just after it has begun the kernel shows nothing of it."""
    found: dict[str, str] = wait_for(psutil.Process(pid).environ, "its environment is there")
    return found


def test_a_child_sees_the_list_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing of an environment hands on no secret."""
    for name in SECRETS:
        monkeypatch.setenv(name, "secret")
    child = Child.spawn("one", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    try:
        assert "secret" not in environment_of(child.pid).values()
    finally:
        child.kill()
        wait_for(lambda: child.poll() is not None)
        child.close()


def test_no_process_of_the_daemon_is_told_a_secret(tmp_path: Path) -> None:
    """Worker and model server of a real supervisor whose own environment is full of them."""
    with daemon(tmp_path / "home", dict.fromkeys(SECRETS, "secret")) as one:
        pull_model(one)
        one.drop("reader")
        one.start()
        pid = one.wait_state("reader", "RUNNING")["pid"]
        model = wait_for(lambda: one.status()["model"]["pid"], "the model server runs")
        for child in (pid, model):
            seen = environment_of(child)
            assert seen["AGENTD_HOME"] == str(tmp_path / "home")
            assert not {name for name in SECRETS if name in seen}
