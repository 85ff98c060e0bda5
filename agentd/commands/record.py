"""`agentd record`: write a session as one file that can be read, kept and replayed."""

import argparse
from pathlib import Path

from agentd.commands.home import open_bus
from agentd.commands.output import json_option, note, print_done, whole
from agentd.errors import UsageError
from agentd.paths import discover
from agentd.states import Exit

EXAMPLES = """example:
  agentd record 7
  agentd record 7 -o review.recording --scrub
  agentd record 7 --as-test tests/recordings     # then: pytest tests/recordings

The file holds the event log exactly as the model saw it, the model's decisions, the agent's
configuration, and what its reading tools read (files, a part of a git repository, pages), so that
`agentd replay FILE` runs it anywhere, without a model and without a network. Secrets are left out
by rules; read the file before you share it. It is replayed once while it is written; exits 1 when
that replay was not identical.

--json prints {done: "written", file, redacted {rule: places}, identical}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("session", type=whole, metavar="SESSION", help="see `agentd sessions`")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-o", dest="file", type=Path, metavar="FILE", help="default: AGENT-SESSION.recording"
    )
    where.add_argument(
        "--as-test", type=Path, metavar="DIR", help="into a folder of recordings that pytest runs"
    )
    parser.add_argument(
        "--scrub", action="store_true", help="also take out user, host and e-mail names"
    )
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Record one session."""
    from agentd.recordings import recording_file as text
    from agentd.replay.code import Workshop
    from agentd.replay.recorder import record_session
    from agentd.sessions.archive import Archive
    from agentd.sessions.steps import StepKind

    paths = discover()
    archive = Archive(open_bus(paths))
    with Workshop() as workshop:
        recording, outcome = record_session(
            archive, args.session, paths, workshop, scrub=args.scrub
        )
    name = f"{recording.head.agent}-{args.session}{text.SUFFIX}"
    file = args.file or (args.as_test or Path()) / name
    if args.file is None and file.exists():
        raise UsageError("is there already", where=str(file), hint="name another one with -o FILE")
    text.save(recording, file)
    redacted, identical = dict(recording.head.redacted), outcome.difference is None
    about = {"file": str(file), "redacted": redacted, "identical": identical}
    print_done(args, "written", str(file), **about)
    for rule, places in recording.head.redacted.items():
        note(f"redacted: {rule}, {places} places")
    for step in recording.steps:
        if step.seq in recording.given:
            turn = sum(s.kind is StepKind.DECISION for s in recording.steps[: step.seq])
            decided = recording.steps[step.seq - 2].type
            note(
                f"turn {turn}: the result of {decided} is given as recorded: what it read changed "
                "since, is too large, or is left out"
            )
    if outcome.difference is not None:
        note("its replay was not identical:", *str(outcome.difference).split("\n"))
        return Exit.FAILED
    return Exit.OK
