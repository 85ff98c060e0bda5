"""`agentd eval`: an agent on labelled cases, for one or several models."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from agentd.commands.fitted_table import print_table
from agentd.commands.home import live_model
from agentd.commands.output import ProgressLine, note, print_json
from agentd.errors import NotRunning, UsageError
from agentd.paths import Paths, discover
from agentd.states import Exit

if TYPE_CHECKING:
    from agentd.evaluate.choosing import LabelRow
    from agentd.evaluate.evaluate import EvalRow
    from agentd.llm.endpoint import Endpoint

EXAMPLES = """example:
  agentd eval                              # the shipped agents' cases, all
  agentd eval task my-cases.toml
  agentd eval mail_triage                  # your own agent, on what you corrected
  agentd eval --model smollm2-135m --model mlx-community/Qwen3-4B-Instruct-2507-4bit
  agentd eval task --fill 20,40,60         # how does a window that is filled so far do?
  agentd eval task --no-mask               # the same without the schema's mask
  agentd eval labels                       # how well does a model choose labels?
  agentd eval labels --development         # a quick look, and what prompts are chosen by
  agentd eval labels my-labels.toml

Runs against the model of the running daemon. Where none runs, or with --model, it starts a model
server of its own. Cases are TOML files, or the names of those that come with agentd (inbox, brief,
feed, review_kinds, task, recall ...), or of your own agents (`agentd correct` writes them);
agentd/evaluate/cases.py says what stands in them.

Columns: LEGAL answers that were an allowed decision; TOOL expected decisions of which the tool was
right; ARGS those of which the arguments were right too; ENDED sessions that came to Done by
themselves; TURNS, TOKENS (decided) and SECONDS per case.

`labels` takes sets of labelled texts; agentd/evaluate/labelled.py says what stands in them.
Columns: the share of right labels, with what it may be (95 %), by the most frequent label
(MAJORITY), by words (RULE), as the model has it (GREEDY), with its bias taken off (CALIBRATED), by
the scores of phrases (SCORED). SAME: answers that stay with the labels in the opposite order.

--json prints a list of model, agent, mask, fill (% of the window), score (counts; x of x_of), wrong
(names of cases). For `labels`: of model, set, ways (by name: right, of, low, high, same)."""
LABELS = "labels"


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("cases", nargs="*", metavar="CASES", help="TOML files, or shipped names")
    parser.add_argument(
        "--model", action="append", default=[], metavar="MODEL", help="in a server of its own"
    )
    parser.add_argument(
        "--fill", type=_shares, default=(), metavar="20,40", help="also with so much of the window"
    )
    parser.add_argument("--no-mask", action="store_true", help="let the model answer anything")
    parser.add_argument(
        "--development", action="store_true", help="of `labels`: the texts that may be looked at"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the cases with each model, and print the table."""
    if args.cases[:1] == [LABELS]:
        return _run(args, _labels(args), _print_labels)
    if args.development:
        raise UsageError("--development goes with `agentd eval labels`")
    return _run(args, _cases(args), _print)


def _cases(args: argparse.Namespace) -> Callable[..., Iterator[Any]]:
    from agentd.evaluate.cases import find_cases, load_cases, shipped_cases
    from agentd.evaluate.evaluate import evaluate

    paths = discover()
    found = [find_cases(name, paths=paths) for name in args.cases or shipped_cases()]
    files = {path.stem: load_cases(path, paths) for path in found}
    return partial(evaluate, files, mask=not args.no_mask, fills=args.fill)


def _labels(args: argparse.Namespace) -> Callable[..., Iterator[Any]]:
    from agentd.evaluate.cases import find_cases, shipped_cases
    from agentd.evaluate.choosing import evaluate_labels
    from agentd.evaluate.labelled import LABELLED, load_labelled

    if args.no_mask or args.fill:
        raise UsageError("--no-mask and --fill do not go with `agentd eval labels`")
    names = args.cases[1:] or shipped_cases(LABELLED)
    paths = [find_cases(name, LABELLED) for name in names]
    files = {path.stem: load_labelled(path) for path in paths}
    return partial(evaluate_labels, files, development=args.development)


def _run(
    args: argparse.Namespace,
    evaluation: Callable[..., Iterator[Any]],
    show: Callable[[list[Any]], None],
) -> int:
    from agentd.evaluate.evaluate import Setting
    from agentd.replay.code import Workshop

    paths = discover()
    rows: list[Any] = []
    progress = ProgressLine(unit="cases")
    try:
        with Workshop() as workshop:
            for name in args.model or [None]:
                with _endpoint(name, paths, progress) as (endpoint, model, deadline_s):
                    setting = Setting(endpoint, model, paths, workshop, deadline_s)
                    for row in evaluation(setting, progress=progress):
                        rows.append(row)
    finally:  # what was measured before something went wrong took its time
        progress.done()
        if args.json:
            print_json([row.document() for row in rows])
        elif rows:
            show(rows)
    return Exit.OK


def _shares(text: str) -> tuple[int, ...]:
    shares = []
    for part in text.split(","):
        if not part.strip().isdecimal() or not 1 <= int(part) <= 80:
            raise argparse.ArgumentTypeError("write per cents from 1 to 80: 20,40,60")
        shares.append(int(part))
    return tuple(shares)


@contextmanager
def _endpoint(
    name: str | None, paths: Paths, progress: ProgressLine
) -> "Iterator[tuple[Endpoint, str, float]]":
    """Yield the model to ask: of the running daemon, or of a server of our own."""
    from agentd.config.daemon import load_daemon
    from agentd.evaluate.own_server import CALL_DEADLINE, own_server
    from agentd.llm.endpoint import Endpoint

    if name is None:
        try:
            endpoint, model = live_model(paths)
        except NotRunning:
            name = load_daemon(paths.daemon_file).model.name
            note(f"no daemon runs: {name} gets a server of its own")
        else:
            deadline_s = model.call_deadline.total_seconds()
            yield endpoint, endpoint.model() if model.url else model.name, deadline_s
            return
    config = load_daemon(paths.daemon_file)
    deadline_s = max(config.model.call_deadline, CALL_DEADLINE).total_seconds()
    with own_server(name, config, paths, lambda: progress.say(f"loading {name}")) as address:
        progress.clear()
        yield Endpoint(lambda: address, own=True), name, deadline_s


def _print(rows: "Sequence[EvalRow]") -> None:
    print_table(
        (
            *("MODEL", "AGENT", "MASK", "FILL", "CASES", "LEGAL", "TOOL", "ARGS", "ENDED"),
            *("TURNS", "TOKENS", "SECONDS"),
        ),
        (
            (
                row.model,
                row.agent,
                "yes" if row.mask else "no",
                f"{row.fill} %" if row.fill else "-",
                row.score.cases,
                *(_share(row, name) for name in ("legal", "tool", "args", "ended")),
                f"{row.score.turns / row.score.cases:.1f}",
                f"{row.score.tokens / row.score.cases:.0f}",
                f"{row.score.seconds / row.score.cases:.1f}",
            )
            for row in rows
        ),
        leave={"MASK": 1, "SECONDS": 2, "TOKENS": 3, "TURNS": 4},
        least={"MODEL": 16, "AGENT": 12},
    )


def _share(row: "EvalRow", name: str) -> str | None:
    share = row.score.share(name)
    return None if share is None else f"{100 * share:.0f} %"


def _print_labels(rows: "Sequence[LabelRow]") -> None:
    print_table(
        (
            *("MODEL", "SET", "CASES", "MAJORITY", "RULE"),
            *("GREEDY", "SAME", "CALIBRATED", "SAME", "SCORED"),
        ),
        (
            (
                row.model,
                row.name,
                row.ways["majority"].of,
                *(_right(row, way) for way in ("majority", "rule")),
                *(cell for way in ("greedy", "calibrated") for cell in _right_and_same(row, way)),
                _right(row, "scored"),
            )
            for row in rows
        ),
        leave={"SCORED": 1, "RULE": 2, "SAME": 3, "MAJORITY": 4},
        least={"MODEL": 16, "SET": 12},
    )


def _right_and_same(row: "LabelRow", way: str) -> tuple[str | None, str | None]:
    same = row.ways[way].same
    return _right(row, way), None if same is None else f"{100 * same / row.ways[way].of:.0f} %"


def _right(row: "LabelRow", way: str) -> str | None:
    if (tally := row.ways.get(way)) is None:
        return None
    low, high = tally.interval()
    return f"{100 * tally.right / tally.of:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
