"""`agentd send-file PATH...`: hand files to the agents that watch such files."""

import argparse
from pathlib import Path

from agentd.commands.home import accepted_config, find_agent, open_bus
from agentd.commands.output import json_option, note, plain, print_done
from agentd.commands.send import note_idle
from agentd.errors import AgentdError, shown
from agentd.paths import discover
from agentd.states import Exit
from agentd.storage.database_files import files_stay
from agentd.watcher.given import check_readable, give, read, readers

EXAMPLES = """example:
  agentd send-file ~/Desktop/invoice.pdf
  agentd send-file ~/Desktop/*.pdf --to inbox

Writes an event file.changed for each file to each agent whose `watch` means it, or to the agent
NAME, and says to whom. A file goes to an agent also where it was told of its content before;
but not while the agent is at it, or waits for your answer about it.
Works without a running daemon: the events wait. Exits 2 for what is no file, 1 where no agent
watches such files or NAME may not read it (nothing is sent then), 3 without a database.

--json prints {done: "sent", events: [{event, path, agent}]}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file")
    parser.add_argument("--to", metavar="NAME", help="for this agent, whatever it watches")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Look at all the files first; then send."""
    paths = discover()
    bus = open_bus(paths, writes=True)
    if args.to is not None:
        find_agent(bus, paths, args.to)
    agents = {
        row.name: config
        for row in bus.agents.present().values()
        if (config := accepted_config(paths, row)) is not None
    }
    sent = []
    for path in map(Path.absolute, args.paths):
        file, content = read(path)
        names = [args.to] if args.to is not None else readers(path, agents)
        if not names:
            raise AgentdError(
                "no agent watches such files",
                where=shown(str(path)),
                hint="name one by --to, or list it in an agent's `watch`",
            )
        for name in names:
            if name in agents:
                check_readable(name, Path(file.path), agents[name])
            sent.append((name, file, content))
    events = []
    for name, file, content in sent:
        with files_stay(bus):
            event_id, new = give(bus, name, file, content)
        if new:
            events.append({"event": event_id, "path": shown(file.path), "agent": name})
        else:
            note(f"{name} is not done yet with event {event_id} of {shown(file.path)}: not sent")
    lines = (plain(f"event {e['event']}: {e['path']} to {e['agent']}") for e in events)
    print_done(args, "sent" if events else None, *lines, events=events)
    for name in dict.fromkeys(name for name, _, _ in sent):
        note_idle(bus, paths, name)
    return Exit.OK
