"""`agentd demo`: everything at work on a git repository, in a throw-away home.

`demo.py` runs it in the home of `temporary.py`, `screen.py` shows the agents at work, `report.py`
what they found.
"""

import argparse
from pathlib import Path

from agentd.errors import UsageError
from agentd.states import Exit

EXAMPLES = """example:
  agentd demo
  agentd demo --repo ~/src/project --model mlx-community/Qwen2.5-3B-Instruct-4bit
  agentd demo --url http://127.0.0.1:1234/v1

Starts the daemon, its model server and two agents as real processes: repo_fetch looks what is new
in the repository and publishes it, repo_review reads the changed files and publishes findings.
Nothing is written into the repository, and nothing leaves this machine. The model is fetched once
and kept with your other models; the rest is removed at the end, or kept if something failed.
Exits 0 when the agents came to their end, 1 when they did not."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "--repo", type=_path, default=None, metavar="PATH", help="a git repository (default: here)"
    )
    parser.add_argument(
        "--model",
        default=None,
        metavar="NAME",
        help="see `agentd model list` (default: smollm2-135m, the bundled one)",
    )
    parser.add_argument(
        "--url", metavar="URL", help="use this OpenAI-compatible server instead of our own"
    )
    parser.add_argument(
        "--small", action="store_true", help="review one file, as on machines without a fast BLAS"
    )
    parser.add_argument("--keep", action="store_true", help="keep the home, and say where it is")


def _path(text: str) -> Path:
    if not text:  # a Path makes the working folder of it
        raise argparse.ArgumentTypeError("is empty; name a folder")
    return Path(text)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    if args.model and args.model.startswith("-"):
        raise UsageError("is no model name", where=args.model)
    from agentd.commands.demo.demo import demo

    demo(args.repo or Path(), model=args.model, url=args.url, small=args.small, keep=args.keep)
    return Exit.OK
