"""`agentd model`: which models there are, fetch one, and what the model server does."""

import argparse
import re
from typing import Any

from agentd.commands.fitted_table import print_table
from agentd.commands.home import open_bus
from agentd.commands.output import local, print_done, print_facts, print_json
from agentd.errors import AgentdError
from agentd.paths import Paths, discover
from agentd.states import Exit
from agentd.views.daemon_state import daemon_state, labels_by, with_external

ANSWER_S = 5.0  # for a living model server to answer
PREFIX = "agentd_"  # of its metrics' names
QUANTILE = re.compile(r'\{quantile="([^"]*)"\}')
LABEL = re.compile(r'\{\w+="([^"]*)"\}')  # requests_total{outcome="stop"}: requests_total_stop

EXAMPLES = """example:
  agentd model list
  agentd model pull smollm2-135m
  agentd model pull mlx-community/Qwen2.5-3B-Instruct-4bit
  agentd model rm smollm2-135m
  agentd model status

A pulled model is used offline from then on. Name it in agentd.toml: [model] name = "...".
Exits 1 when a model cannot be fetched, 3 when `status` finds no running daemon.

--json: `list` prints a list of {name, folder (null: not pulled), bytes, bundled}; `status` one
object: name, url, external, state, stopping, pid, since, restarts, crashes (in a row), reason,
problem, beat, labels (how agents' labels are taken: see `agentd status --help`), and metrics (null
where the server gives none) by name, such as prompt_tokens_total. Of an external server also
models, the names that it lists (null: none), and its state: RUNNING, WAITING (down) or PARKED (a
wrong key, URL ...). `pull` prints {done: "pulled", name, folder}, `rm` {done: "removed", name,
folder, bytes}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "pull", "rm", "status"),
        default="list",
        help="default: list",
    )
    parser.add_argument(
        "name", nargs="?", metavar="MODEL", help="pull, rm: a bundled model or a Hugging Face name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """List, pull, or show the server's state."""
    if (args.name is None) == (args.action in ("pull", "rm")):
        args.fail(f"{args.action} {'needs a' if args.name is None else 'takes no'} MODEL")
    paths = discover()
    if args.action == "pull":
        _pull(args, paths)
    elif args.action == "rm":
        _remove(args, paths)
    elif args.action == "list":
        _list(paths, as_json=args.json)
    else:
        _status(paths, as_json=args.json)
    return Exit.OK


def _pull(args: argparse.Namespace, paths: Paths) -> None:
    from agentd.commands.output import ProgressLine
    from agentd.models import store

    progress = ProgressLine()
    try:
        folder = store.pull(args.name, paths.models, progress)
    finally:
        progress.done()
    print_done(args, "pulled", str(folder), name=args.name, folder=str(folder))


def _remove(args: argparse.Namespace, paths: Paths) -> None:
    from agentd.models import store

    model = (daemon_state(paths) or {}).get("model") or {}
    if model.get("name") == args.name and not model.get("external"):
        raise AgentdError(
            f"the running daemon uses {args.name}",
            where="agentd.toml: [model] name",
            hint="name another model there first",
        )
    folder, size = store.remove(args.name, paths.models)
    line = f"{args.name} is removed: {size / 1e6:.0f} MB are free again"
    print_done(args, "removed", line, name=args.name, folder=str(folder), bytes=size)


def _list(paths: Paths, *, as_json: bool) -> None:
    from agentd.models import store

    found = store.available(paths.models)
    if as_json:
        print_json([vars(model) for model in found])
        return
    print_table(
        ("NAME", "SIZE", "WHERE"),
        (
            (m.name, f"{m.bytes / 1e6:.0f} MB", m.folder or f"agentd model pull {m.name}")
            for m in found
        ),
    )


def _status(paths: Paths, *, as_json: bool) -> None:
    from agentd.supervisor.client import query

    model = with_external({**query(paths)["model"]}, paths)
    text = None if model["external"] else ask_model_server("/metrics", paths)
    model["metrics"] = None if text is None else _parse(text)
    bus = open_bus(paths)
    model["labels"] = labels_by(model, bus)
    bus.close()
    if as_json:
        print_json(model)
        return
    metrics = {name: _number(value) for name, value in (model["metrics"] or {}).items()}
    flat = {**model, **(model["problem"] or {}), **metrics, **model["beat"]}
    flat["models"] = ", ".join(model.get("models") or ())
    flat["since"] = local(model["since"])
    print_facts({k: _word(v) for k, v in flat.items() if not isinstance(v, dict)})


def _word(value: Any) -> Any:
    return "yes" if value is True else None if value is False else value


def _number(value: float) -> str:
    """Write whole numbers whole, others with four digits."""
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"


def ask_model_server(path: str, paths: Paths) -> str | None:
    """Return our own model server's answer to GET `path`, or None while it gives no good one."""
    from agentd.llm.address import NotThere, fetch, own_address

    try:
        answer = fetch(own_address(paths), path, ANSWER_S)
    except NotThere:
        return None  # still starting
    return None if answer is None else answer.decode("utf-8", "replace")


def _parse(text: str) -> dict[str, float]:
    """Read Prometheus' text format: names without their common prefix, quantiles as `NAME_p95`."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            short = QUANTILE.sub(lambda found: f"_p{float(found[1]) * 100:g}", name)
            values[LABEL.sub(r"_\1", short).removeprefix(PREFIX)] = float(value)
    return values
