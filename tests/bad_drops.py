"""Thousands of wrong files beside good agents: `python -m tests.bad_drops --files N --seed S`."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from agentd.config.toml import BYTES_MAX
from agentd.paths import Paths, discover, shipped
from agentd.supervisor.client import query
from agentd.testing import wait_for

GOOD = """agent = "task"
done = "The note is read and answered."
subscribe = ["note.added"]
description = "{text}"
[params]
instructions = "Answer the note."
"""
GOOD_NAMES = ("alpha", "middle", "zulu")
EXAMPLES = len(list((shipped() / "config" / "agents.d").glob("*.toml")))  # of the first run
START_S = 60.0


def _truncated(path: Path, chance: random.Random) -> None:
    text = GOOD.format(text="x")
    path.write_text(text[: chance.randrange(len(text) - 30)] + '"')


def _wrong_types(path: Path, chance: random.Random) -> None:
    key = chance.choice(["agent", "done", "subscribe", "schedule", "limits", "priority", "start"])
    value = chance.choice(["7", "[1, 2]", "{ a = 1 }", "true", "1979-05-27", "nan", '"\\u0000"'])
    lines = [line for line in GOOD.format(text="x").splitlines() if not line.startswith(key)]
    path.write_text("\n".join([f"{key} = {value}", *lines]))


def _unknown_key(path: Path, chance: random.Random) -> None:
    path.write_text(f"key{chance.random()} = 1\n" + GOOD.format(text="x"))


def _wrong_params(path: Path, chance: random.Random) -> None:
    """Only the agent's own module can tell: this one needs a process."""
    path.write_text(GOOD.format(text="x").replace('"Answer the note."', str(chance.random())))


def _huge(path: Path, chance: random.Random) -> None:
    path.write_bytes(b'done = "' + b"x" * chance.randrange(BYTES_MAX, 4_000_000) + b'"\n')


def _just_small_enough(path: Path, chance: random.Random) -> None:
    unit = chance.choice(["a{n} = 1\n", "[t{n}]\n", "[[x]]\n", "b{n}.c.d = {{ e = [[[]]] }}\n"])
    lines = BYTES_MAX // len(unit.format(n=99_999))
    path.write_text("".join(unit.format(n=number) for number in range(lines)))


def _deep(path: Path, chance: random.Random) -> None:
    depth = chance.randrange(500, 60_000)
    brackets = f"a = {'[' * depth}{']' * depth}"
    dots = f"{'.'.join(['a'] * depth)} = 1"
    path.write_text(chance.choice([brackets, dots]))


def _binary(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.randrange(1, 5_000)))


def _empty(path: Path, chance: random.Random) -> None:
    path.touch()


def _no_module(path: Path, chance: random.Random) -> None:
    path.write_text(GOOD.format(text="x").replace('"task"', f'"nobody{chance.randrange(99)}"'))


def _disabled(path: Path, chance: random.Random) -> None:
    path.write_text("enabled = false\nnonsense = 1\n")


def _loop(path: Path, chance: random.Random) -> None:
    path.symlink_to(path)


def _dangling(path: Path, chance: random.Random) -> None:
    path.symlink_to("/nowhere/at/all.toml")


def _device(path: Path, chance: random.Random) -> None:
    path.symlink_to(chance.choice(["/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem", "/"]))


def _pipe(path: Path, chance: random.Random) -> None:
    os.mkfifo(path)


def _folder(path: Path, chance: random.Random) -> None:
    path.mkdir()


def _unreadable(path: Path, chance: random.Random) -> None:
    path.write_text("done = 1\n")
    path.chmod(0o000)


def _foreign(path: Path, chance: random.Random) -> None:
    path.symlink_to("/etc/passwd")


KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_truncated, _wrong_types, _unknown_key, _huge, _just_small_enough, _deep, _binary, _empty),
    *(_no_module, _disabled, _loop, _dangling, _device, _pipe, _folder, _unreadable, _foreign),
)


def drop(folder: Path, files: int, seed: int, *, with_params: int = 0) -> set[str]:
    """Write `files` wrong files, and some more that need a process each; return their names."""
    chance = random.Random(seed)
    names = set()
    for number in range(files):
        name = chance.choice(
            [f"bad{number}", f"bad{number}", f"Bad {number}", f"\u00fcber{number}"]
        )
        KINDS[number % len(KINDS)](folder / f"{name}.toml", chance)
        names.add(name)
    for number in range(with_params):
        _wrong_params(folder / f"params{number}.toml", chance)
        names.add(f"params{number}")
    return names


class Daemon:
    """`agentd run` with three good agents."""

    def __init__(self, home: Path) -> None:
        self.paths: Paths = discover({"AGENTD_HOME": str(home)})
        self.paths.create()
        self.paths.daemon_file.write_text("[model]\nurl = 'http://127.0.0.1:9/v1'\n")
        for name in GOOD_NAMES:
            self.write(name, "first")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentd", "run"], env={**os.environ, "AGENTD_HOME": str(home)}
        )

    def write(self, name: str, text: str) -> None:
        half = self.paths.agents_d / f"{name}.half"
        half.write_text(GOOD.format(text=text))
        half.replace(self.paths.agents_d / f"{name}.toml")

    def agents(self) -> dict[str, dict[str, Any]]:
        try:
            document = query(self.paths)
        except Exception:
            return {}
        found = {agent["name"]: agent for agent in document["agents"]}
        found["*"] = {"refused": len(document["agents"]) + document["refused_unshown"]}
        return found

    def good(self) -> dict[str, int] | None:
        """The good agents' pids, None while one of them does not run."""
        agents = self.agents()
        found = [agents.get(name, {}) for name in GOOD_NAMES]
        if any(agent.get("state") != "RUNNING" for agent in found):
            return None
        return {agent["name"]: agent["pid"] for agent in found}

    def settled(self, files: int) -> bool:
        """Whether every file was looked at and none is being checked."""
        agents = self.agents()
        return agents.get("*", {}).get("refused", 0) == files + len(
            GOOD_NAMES
        ) + EXAMPLES and not any(agent.get("checking") for agent in agents.values())


@contextmanager
def daemon(home: Path) -> Iterator[Daemon]:
    """A daemon that is gone afterwards."""
    one = Daemon(home)
    try:
        wait_for(one.good, seconds=START_S, what="the good agents run")
        yield one
    finally:
        one.process.terminate()
        try:
            one.process.wait(20)
        finally:
            one.process.kill()


def change(one: Daemon, text: str) -> float:
    """Change a good agent's file; return the seconds until the new version runs."""
    before, began = one.good(), time.monotonic()
    one.write("middle", text)

    def restarted() -> bool:
        found = one.good()
        return found is not None and before is not None and found["middle"] != before["middle"]

    wait_for(restarted, seconds=120, what="the changed agent runs anew")
    return time.monotonic() - began


def run(home: Path, files: int, seed: int, with_params: int) -> dict[str, Any]:
    """Drop the files beside good agents, change a good one meanwhile, and measure."""
    with daemon(home) as one:
        supervisor = psutil.Process(one.process.pid)
        alone_s = change(one, "alone")
        before, pids = supervisor.memory_info().rss, one.good()
        spent = supervisor.cpu_times()
        began = time.monotonic()
        slowest, done = 0.0, threading.Event()

        def watch() -> None:
            nonlocal slowest
            while not done.wait(0.05):
                asked = time.monotonic()
                one.agents()
                slowest = max(slowest, time.monotonic() - asked)

        watcher = threading.Thread(target=watch)
        watcher.start()
        names = drop(one.paths.agents_d, files, seed, with_params=with_params)
        dropped_s = time.monotonic() - began
        change_s = change(one, "meanwhile")
        wait_for(lambda: one.settled(len(names)), seconds=3600, what="all files are refused")
        settled_s = time.monotonic() - began
        done.set()
        watcher.join()
        now, cpu = one.good(), supervisor.cpu_times()
        assert now is not None and pids is not None
        agents = one.agents()
        return {
            "files": len(names),
            "dropped_s": round(dropped_s, 1),
            "settled_s": round(settled_s, 1),
            "cpu_s": round(cpu.user + cpu.system - spent.user - spent.system, 1),
            "good_change_s": round(change_s, 1),
            "good_change_alone_s": round(alone_s, 1),
            "slowest_status_s": round(slowest, 2),
            "rss_before_mb": round(before / 1e6, 1),
            "rss_after_mb": round(supervisor.memory_info().rss / 1e6, 1),
            "good_restarted": sorted(n for n in GOOD_NAMES if now[n] != pids[n] and n != "middle"),
            "restarts": {name: agents[name]["restarts"] for name in GOOD_NAMES},
        }


def main() -> int:
    """Run once and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bad_drops", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--params", type=int, default=0, help="of which need a process each")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drops-") as folder:
        figures = run(Path(folder), options.files - options.params, options.seed, options.params)
        print(json.dumps(figures, indent=1))
    return int(bool(figures["good_restarted"]))


if __name__ == "__main__":
    sys.exit(main())
