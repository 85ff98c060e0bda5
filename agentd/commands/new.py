"""`agentd new NAME`: a new agent's files, from a template that passes `agentd check` as it is."""

import argparse
import sys
from pathlib import Path
from string import Template

from agentd.commands.new_task import BY_ITSELF, DAILY, LOOKS, Draft, asked, listed_words, text_of
from agentd.commands.output import json_option, print_done
from agentd.commands.seed import seed_schemas, write_private
from agentd.config.agent import check_agent_name
from agentd.errors import UsageError
from agentd.paths import Paths, discover, shipped
from agentd.states import Exit

EXAMPLES = """example:
  agentd new reading_list           # at a terminal it asks three questions
  agentd new notes --read ~/notes --every 1h --labels work,private    # by their names
  agentd new letters --watch '~/Downloads/*.pdf' --labels bill,other  # by what is in them
  agentd new news --feed https://example.org/feed.xml --daily 08:00 --rank astronomy,chess
  agentd new word_count --code      # also agents/word_count.py and baml_src/word_count.baml

Writes files that are right as they stand. What was asked for runs at once. Without flags, and
without a terminal, and with --code, it is a template, and disabled: edit it, set `enabled` to true,
and save. A file that is there already is never overwritten; exit 2.

--json prints {done: "written", agent, files}."""

BY_CONFIGURATION = """\
#:schema ../agent.schema.json
enabled = false # true: it runs as soon as this file is saved
agent = "task" # made of configuration alone
description = "What it is for, in a line for people."
done = "The text is summed up in one sentence." # what done looks like; the prompt carries it
subscribe = ["request.$name"]
# schedule = { every = "1h" } # or { cron = "0 9 * * 1-5" }

[params]
instructions = "Sum up the text of the event in one sentence."
tools = [] # such as "ReadFile"; each needs its permission below
publish = "answer.$name"

[permissions] # nothing is allowed unless listed
# read = ["~/notes"]
"""

BY_CODE = """\
#:schema ../agent.schema.json
enabled = false # true: it runs as soon as this file is saved
agent = "$name" # agents/$name.py and baml_src/$name.baml
description = "What it is for, in a line for people."
done = "The text was looked at and is labelled." # what done looks like; the prompt carries it
subscribe = ["request.$name"]
# schedule = { every = "1h" } # or { cron = "0 9 * * 1-5" }

[permissions] # nothing is allowed unless listed
# read = ["~/notes"]
"""

PYTHON = '''\
"""$name: what it is for, in a line."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentd.agent import Agent, Result
from agentd.events import Event, NewEvent


class Asked(BaseModel):
    """What it accepts: the payload of request.$name."""

    text: str


class Answered(BaseModel):
    """What it publishes: the payload of answer.$name."""

    label: str
    words: int


class $camel(Agent):
    """Looks at the text once, then labels it."""

    function = "$camel"
    accepts = {"request.$name": Asked}
    publishes = {"answer.$name": Answered}
    idempotent = frozenset({"${camel}Look"})  # may run again after it was cut off

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Take what every turn needs; `results` holds what was done before a restart."""
        self.text = str(event.payload.get("text", ""))

    def opening(self, event: Event) -> Result:
        """Return what the model sees of the event. It came from outside: not trusted."""
        return Result({"text": self.text[:400]}, trusted=False)

    def dispatch(self, decision: Any) -> Result:
        """Carry out one decision."""
        match decision:
            case self.kit.types.${camel}Look():
                return Result({"words": len(self.text.split())})
        return super().dispatch(decision)

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Turn Done into an event; it is published when the session closes."""
        answer = Answered(label=done.label, words=len(self.text.split())).model_dump()
        return Result(answer, publish=[NewEvent("answer.$name", answer)])
'''

BAML = """\
// What $name may decide, and the prompt that asks for one of it.
class ${camel}Look {
  tool "look"
}

class Done {
  tool "done"
  label "short" | "long"
}

function $camel(context: string, done: string) -> ${camel}Look | Done {
  client Local
  prompt #"
    {{ _.role("system") }}
    Look at the text, then label it. Done: {{ done }}
    Answer:
    {{ Decisions() }}
    {{ _.role("user") }}
    {{ context }}
  "#
}
"""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        metavar="NEW_NAME",
        help="lower-case letters, digits and _, a letter first, at most 48; "
        "not agentd, model, person",
    )
    parser.add_argument("--code", action="store_true", help="with a module and a prompt of its own")
    look = parser.add_mutually_exclusive_group()
    look.add_argument("--read", metavar="FOLDER", help="look at the names of a folder's files")
    look.add_argument("--watch", metavar="'FOLDER/*.pdf'", help="look at each new file")
    look.add_argument("--feed", metavar="URL", help="look at what is new in a feed")
    look.add_argument("--mail", metavar="PATH|imaps://...", help="look at new mail")
    look.add_argument("--page", metavar="URL", help="look at a page")
    look.add_argument("--events", metavar="TYPE", help="look at each event of a type")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--every", metavar="1h", help="how often; an hour by default")
    when.add_argument("--daily", metavar="09:00", help="each day at this time")
    out = parser.add_mutually_exclusive_group()
    out.add_argument("--labels", metavar="a,b", help="give each row one of these labels")
    out.add_argument("--rank", metavar="a,b", help="rank rows by these interests")
    json_option(parser)
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """Write the files and say what comes next."""
    check_agent_name(args.name, where="NAME")
    paths = discover()
    ours = (f"agents/{args.name}.py", f"baml_src/{args.name}.baml")  # a person's goes before them
    if args.code and any((shipped() / file).exists() for file in ours):
        raise UsageError(
            f"agentd itself has {' or '.join(ours)}", hint="choose another name for yours"
        )
    draft = _draft(args)
    written = write(args.name, paths, code=args.code, draft=draft)
    lines = [*(f"wrote {path}" for path in written), f"check it: agentd check {written[-1]}"]
    if draft is not None:
        kind = draft.where.replace("*", "new")  # of a prefix: one that it means
        event = f"""send {kind} '{{"text": "..."}}'"""
        how = {"events": event, "watch": "send-file PATH"}.get(draft.look, f"trigger {args.name}")
        lines += [f"try it now: agentd {how}"]
    else:
        lines += ["then set `enabled = true` in it, and try it:"]
        lines += [f"""  agentd send request.{args.name} '{{"text": "..."}}'"""]
    print_done(args, "written", *lines, agent=args.name, files=list(map(str, written)))
    return Exit.OK


def _draft(args: argparse.Namespace) -> Draft | None:
    """Return what a person wants by flags or at the terminal; None: a template to begin with."""
    wanted = {"folder": args.read, **{look: getattr(args, look) for look in LOOKS[1:]}}
    look = next((look for look, where in wanted.items() if where is not None), None)
    flags = (args.every, args.daily, args.labels, args.rank)
    if args.code and (look or any(flags)):
        args.fail("--code goes without them: it writes a template")
    if look is None:
        if any(flags):
            args.fail("say what it looks at: --read, --watch, --feed, --mail, --page or --events")
        return asked(_ask) if sys.stdin.isatty() and sys.stdout.isatty() and not args.code else None
    if look == "watch" and (args.every or args.daily):
        args.fail("--watch looks at each file when it comes: it goes without a time")
    when = args.daily or args.every or ("" if look in BY_ITSELF else "1h")
    if args.daily and not DAILY.fullmatch(args.daily):
        args.fail(f"--daily: {args.daily!r} is no time; write 09:00")
    out = "labels" if args.labels else "ranking" if args.rank else "list"
    return Draft(look, wanted[look], when, out, listed_words(args.labels or args.rank or ""))


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        raise UsageError("nothing was answered", hint="or use flags: agentd new --help") from None


def write(name: str, paths: Paths, *, code: bool, draft: Draft | None = None) -> list[Path]:
    """Write a new agent's files; the configuration, which makes it one, comes last.

    Raises:
        UsageError: one of them is there already; nothing was written.
        StorageError: a file cannot be written.
    """
    camel = "".join(word.capitalize() for word in name.split("_")) + "Agent"
    text = Template(BY_CODE if code else BY_CONFIGURATION).substitute(name=name, camel=camel)
    files = {paths.agents_d / f"{name}.toml": text if draft is None else text_of(name, draft)}
    if code:
        own = {paths.agents / f"{name}.py": PYTHON, paths.baml_src / f"{name}.baml": BAML}
        made = {p: Template(t).substitute(name=name, camel=camel) for p, t in own.items()}
        files = {**made, **files}
    if there := [str(path) for path in files if path.exists()]:
        raise UsageError("is there already", where=", ".join(there), hint="choose another name")
    for path, text in files.items():
        write_private(path, text)
    seed_schemas(paths)
    return list(files)
