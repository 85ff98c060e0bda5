"""`agentd status`: the daemon and its agents, once or again and again."""

import argparse
import sys

from agentd.commands.agent_text import print_agent, print_log
from agentd.commands.home import no_such_agent
from agentd.commands.output import note, print_json
from agentd.commands.status_text import print_status
from agentd.errors import AgentdError
from agentd.paths import Paths, discover
from agentd.states import Exit, WorkerState
from agentd.terminal import Captured, pause, redraw
from agentd.views.overview import overview

EXAMPLES = (
    """example:
  agentd status
  agentd status repo_review     # in detail, with the last lines of its log
  agentd status --watch         # again every 2 s, until Ctrl-C
  agentd status --json | jq '.agents[] | select(.state != "RUNNING")'

STATE of an agent:
"""
    + "".join(f"  {state.value:8}  {state.meaning}\n" for state in WorkerState)
    + """  UNKNOWN   the daemon does not answer

WAITING counts the events that wait for an agent, each kind up to 1,000: addressed to it + by
subscription. WAITS FOR says why it does not get on. CPU is the share of one core now, MODEL the
time that a model worked for it in the last hour. A terminal that is too narrow for all columns does
without some.
Exits 0 when the daemon runs, 3 when it does not (what the database knows is still shown), 1 when it
does not answer and for an unknown NAME.

--json prints one object (with --watch one a line, again and again): running, answers, home, pid,
since, version, silence (why a daemon that is there does not answer), problem (of agentd.toml, or of
agents.d itself), refused_folder (a problem where macOS keeps agentd out of one), failure (why the
last run ended, if it failed), storage {problem, database_bytes, wal_bytes, free_bytes}, overlooked
(files in your folders that are not read for their name or place: [{where, what, hint}]), model
{name, url, state, reason, problem, labels, ...: see `agentd model --help`}, refused_unshown (wrong
files beyond those listed), sandbox {level, why, wanted} ("full", "partial" or "checks", which is
none; why it is not full; [sandbox] level of agentd.toml), deliver (null: results are sent nowhere;
else its process, with the ways in beat.ways: see `agentd deliver`), watcher (null where no agent
watches a folder, else state, pid, problem, agents, and in beat: problems by agent, notices), ui
(null without the page's process, else url, kept (by [ui] port), state, pid, problem), workers
(null where none is forked, else of the process that forks them: state, pid, problem),
last_event_id, dead_letters, asks (how much waits for your answer), and agents: name, state, pid,
since, restarts, reason, problem (null or {what, where, hint}), paused, subscribe, waiting {direct,
subscribed}, last_session (null or {id, state, started_at, ended_at}), labels, dead_letters, asks,
held (null or {reason, until, hint}: why its events do not get on), waits_for (what holds it up, in
words, or null), next_run, last_result (null or {id, title, created_at}; of the newest 20,000
events), model_s (seconds that a model worked for it in the last hour), cpu_percent (of one core,
now), memory_bytes (its processes' own share), triggers {schedule, next (run, UTC), at [{at, over}],
watch, watch_problem, where, batch {within, most}, missed, later [{id, agent, due, what}]}, and
while the daemon runs also version, module, enabled, checking (its file), stopping, crashes (in a
row), beat. Times are UTC.

`labels`, of the model and of each agent: how labels are taken. "offsets": without the model's own
bias; "logprobs": likewise, by what an external server tells; "greedy": as the model prefers them;
null: not known yet."""
)

WATCH_S = 2.0  # between two looks


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this agent, in detail")
    parser.add_argument("-w", "--watch", action="store_true", help="show it again every 2 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the state of all, or of one agent."""
    paths = discover()
    while args.watch:
        if args.json or not sys.stdout.isatty():
            _show(args, paths)
            sys.stdout.flush()
        else:
            with Captured() as screen:
                _show(args, paths)
            redraw(screen.getvalue())
        pause(WATCH_S)
    return _show(args, paths)


def _show(args: argparse.Namespace, paths: Paths) -> int:
    document = overview(paths)
    agents = {agent["name"]: agent for agent in document["agents"]}
    if document["silence"]:
        note(*AgentdError(**document["silence"]).lines())
    if args.name is not None and args.name not in agents:
        raise no_such_agent(args.name, agents)
    if args.json:
        wanted = document if args.name is None else agents[args.name]
        print_json(wanted, indent=None if args.watch else 2)
    elif args.name is not None:
        print_agent(agents[args.name])
        print_log(args.name, paths)
    else:
        print_status(document)
    if not document["running"]:
        return Exit.NOT_RUNNING
    return Exit.OK if document["answers"] else Exit.FAILED
