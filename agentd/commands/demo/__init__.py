"""`agentd demo`: agents at work on headlines and on a git repository, in a throw-away home.

`demo.py` runs it in the home of `temporary.py`. `headlines.py` has the first screen, for which
`own_line.py` asks the person; `changes.py` the second, by the shipped agents as `pointed.py` sets
them up. `pipeline.py` follows the agents, `screen.py` shows them at work, `findings.py` what they
found, `effort.py` what it took.
"""

import argparse
from pathlib import Path

from agentd.errors import UsageError
from agentd.states import Exit

EXAMPLES = """example:
  agentd demo
  agentd demo --interest 'old maps' --interest cycling --save for-me.md
  agentd demo --repo ~/src/project --model mlx-community/Qwen2.5-3B-Instruct-4bit
  agentd demo --url http://127.0.0.1:1234/v1

Starts the daemon, its model server and three agents as real processes. One of ten lines ranks
headlines by your interests; at a terminal you are asked for one more. repo_fetch and repo_review
look what is new in the git repository here, or in PATH, and how risky it is.
Nothing is written into the repository, and nothing leaves this machine. The model is fetched once
and kept with your other models; the rest is removed at the end, or kept if something failed.
Exits 0 when the agents came to their end, 1 when they did not."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "--repo",
        type=_path,
        metavar="PATH",
        help="a git repository (default: the one that you stand in)",
    )
    parser.add_argument(
        "--interest",
        action="append",
        default=[],
        metavar="TEXT",
        help="what you care for, in the place of the three that come with it; may come again",
    )
    parser.add_argument(
        "--save", type=_path, metavar="FILE", help="also write what was found, as a new file"
    )
    parser.add_argument(
        "--model",
        default=None,
        metavar="MODEL",
        help="see `agentd model list` (default: smollm2-135m, the bundled one)",
    )
    parser.add_argument(
        "--url", metavar="URL", help="use this OpenAI-compatible server instead of our own"
    )
    parser.add_argument(
        "--small", action="store_true", help="half of it, as on machines without a fast BLAS"
    )
    parser.add_argument("--keep", action="store_true", help="keep the home, and say where it is")


def _path(text: str) -> Path:
    if not text:  # a Path makes the working folder of it
        raise argparse.ArgumentTypeError("is empty; name a path")
    return Path(text)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    if args.model and args.model.startswith("-"):
        raise UsageError("is no model name", where=args.model)
    from agentd.commands.demo.demo import demo

    demo(
        args.repo,
        interests=args.interest,
        model=args.model,
        url=args.url,
        save=args.save,
        small=args.small,
        keep=args.keep,
    )
    return Exit.OK
