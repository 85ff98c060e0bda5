"""The `agentd` command: a table of commands, each a module that is imported only when it runs.

Exit codes: 0 well, 1 failed, 2 usage, 3 no daemon, or no database yet. `run` alone also exits 75
(try again later) and 78 (wrong configuration), which launchd and supervisors understand. Ctrl-C
exits 130.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from agentd import __version__
from agentd.commands.parser import Parser
from agentd.errors import AgentdError
from agentd.process.leave import stoppable
from agentd.process.stop import stop_at_once
from agentd.states import Exit
from agentd.terminal import note

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader (`| head`) had enough


@dataclass(frozen=True)
class Command:
    """One row of the table: a word, the module in agentd/commands that carries it out, a line."""

    name: str
    module: str
    summary: str


# As the overview groups them.
GROUPS = (
    (  # daily use
        Command("run", "run", "Run the daemon in the foreground until Ctrl-C or SIGTERM."),
        Command("demo", "demo", "Try everything on a git repository, in a throw-away home."),
        Command(
            "status", "status", "Show the daemon and its agents: states, problems, and what waits."
        ),
        Command("logs", "logs", "Show what the daemon and its agents log."),
        Command("results", "results", "Show what agents came to, or the whole of one result."),
        Command("deliver", "deliver", "Show where results are sent, or send a test by each way."),
        Command("events", "events", "Show events of the bus, newest last."),
        Command("search", "search", "Find events and results by their words."),
        Command("ask", "ask", "Ask an agent, and see its answer; without a name the assistant."),
        Command("send", "send", "Send an event to its subscribers, or to one agent."),
        Command("send-file", "send_file", "Hand files to the agents that watch such files."),
        Command("answer", "answer", "List what agents wait for, and say yes, no or more to it."),
        Command("trigger", "trigger", "Ask one agent to run now."),
        Command("later", "later", "List what agents have set for themselves, or drop some of it."),
        Command("sessions", "sessions", "List the agents' sessions, or show one turn by turn."),
        Command("dead", "dead", "List dead letters, show, retry or drop some."),
        Command("ui", "ui", "Open a page in the browser: results, questions, agents, sessions."),
        Command("mcp", "mcp", "Let another assistant read what agents do, and ask them (MCP)."),
    ),
    (  # agents
        Command("new", "new", "Write a new agent's files from a template."),
        Command("check", "check", "Check the configuration and all agents, or one file."),
        Command(
            "enable", "enable", "Turn one agent on, or all, in their files; wait until they run."
        ),
        Command("disable", "enable", "Turn one agent off, or all, in their files."),
        Command("remove", "remove", "Take an agent out of service, and say what it leaves."),
        Command("reload", "control", "Read the configuration again, and retry what was parked."),
        Command("pause", "control", "Stop one agent, or all, until `resume`; events wait."),
        Command("resume", "control", "Start a paused or parked agent again, or all of them."),
    ),
    (  # recordings
        Command("record", "record", "Write a session as a file that can be replayed."),
        Command("replay", "replay", "Run recorded sessions again without a model, and compare."),
        Command("correct", "correct", "Say what would have been right: an example for `eval`."),
        Command("eval", "eval", "Run agents on labelled cases, and count what a model gets right."),
    ),
    (  # upkeep
        Command("model", "model", "List models, fetch or remove one, or show the model server."),
        Command("token", "token", "Show where the model server's token lies, or make another one."),
        Command("backup", "backup", "Copy the database while it is in use, or restore a copy."),
        Command("prune", "prune", "Remove what is too old, or too much, from the database now."),
        Command(
            "prove-private",
            "prove_private",
            "Try each known way out of an agent's sandbox.",
        ),
        Command("doctor", "doctor", "Look for what is wrong with this installation, or repair it."),
        Command("paths", "paths", "Show where configuration, data and logs live."),
        Command("completion", "completion", "Print a script that lets your shell complete words."),
    ),
    (  # macOS
        Command("install", "service", "Start the daemon now and at each login (macOS)."),
        Command("start", "service", "Start the installed daemon (macOS)."),
        Command("stop", "service", "Stop the installed daemon until `start` or a login (macOS)."),
        Command("restart", "service", "Start one agent anew, or the installed daemon (macOS)."),
        Command("uninstall", "service", "Stop the daemon and start it no more at login (macOS)."),
        Command("plist", "plist", "Print a LaunchAgent that starts `agentd run` at login (macOS)."),
    ),
)
COMMANDS = tuple(command for group in GROUPS for command in group)


class CommandModule(Protocol):
    """What a module in agentd/commands provides."""

    EXAMPLES: str  # shown at the end of --help

    def arguments(self, parser: argparse.ArgumentParser, command: str) -> None:
        """Declare the command's options and arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Carry it out and return the exit code. Raises AgentdError for what is wrong."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a person's mistake never shows a traceback."""
    _open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    try:
        code = _dispatch(name, words)
        sys.stdout.flush()  # here and not at exit, so that a closed pipe is met inside this `try`
        return code
    except SystemExit as stop:  # argparse: --help, --version, a usage error
        return stop.code if isinstance(stop.code, int) else Exit.USAGE
    except AgentdError as error:
        note(*error.lines())
        return _exit_code(name, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return PIPE_CLOSED
    except OSError as error:  # a full disk behind stdout, most of all
        place = error.filename or "standard output"
        note(f"{place}: {error.strerror or error}")
        _discard_stdout()
        return Exit.FAILED


def _open_streams() -> None:
    """Give a process that was started with closed standard streams empty ones.

    Else the next file to be opened, perhaps the database, becomes what `print` writes to.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    # Python has set None for what was closed; the files are never closed, as its own are not.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    # What the terminal's encoding lacks is written as an escape, as on stderr, and no traceback.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Python flushes stdout once more at exit: give it a place to flush to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(name: str, words: list[str]) -> int:
    command = next((c for c in COMMANDS if c.name == name), None)
    if command is None:
        parser = overview()
        parser.parse_args(words)  # --help and --version leave here, and so does a wrong word
        parser.print_help()
        return Exit.USAGE
    if name == "run":
        # Its modules take a while, in which a stop would look like a crash to what started us.
        stop_at_once()
    module = _module(command)
    parser = command_parser(command, module)
    if name == "completion":
        parser.set_defaults(summaries={c.name: c.summary for c in COMMANDS}, parser_of=parser_of)
    args = parser.parse_args(words[1:])
    if name == "run":  # it stops in an order of its own
        return module.run(args)
    with stoppable():
        return module.run(args)


def _module(command: Command) -> CommandModule:
    return cast(CommandModule, import_module(f"agentd.commands.{command.module}"))


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return a command's parser by its name."""
    command = next(command for command in COMMANDS if command.name == name)
    return command_parser(command, _module(command))


def overview() -> argparse.ArgumentParser:
    """Return the parser of a bare `agentd`: help, version, and the list of commands."""
    width = max(len(command.name) for command in COMMANDS)
    listing = "\n\n".join(
        "\n".join(f"  {c.name:{width}}  {c.summary}" for c in group) for group in GROUPS
    )
    parser = Parser(
        prog="agentd",
        usage="agentd COMMAND [ARGUMENTS]",
        description="Many small private agents on one local model.\n\ncommands:\n" + listing,
        epilog="`agentd COMMAND --help` tells more. AGENTD_HOME=/some/folder moves everything.\n"
        "Exit codes: 0 well, 1 failed, 2 usage, 3 no daemon, or no database yet.\n"
        "--json prints one object; lists as one JSON list; events, results, what `search` finds, "
        "logs\nand what --watch shows as one object a line. Times are UTC; errors are words on "
        "stderr.",
    )
    parser.add_argument("--version", action="version", version=f"agentd {__version__}")
    names = [command.name for command in COMMANDS]
    # The command itself is looked up before parsing, so only a wrong word comes here.
    parser.add_argument("command", nargs="?", choices=names, help=argparse.SUPPRESS)
    return parser


def command_parser(command: Command, module: CommandModule) -> argparse.ArgumentParser:
    """Return one command's parser, declared by its module."""
    parser = Parser(
        prog=f"agentd {command.name}", description=command.summary, epilog=module.EXAMPLES
    )
    parser.set_defaults(command=command.name)
    module.arguments(parser, command.name)
    return parser


def _exit_code(name: str, error: AgentdError) -> int:
    """75 and 78 speak to what starts a daemon; every other command has failed, no more."""
    if name != "run" and error.exit_code in (Exit.TEMPORARY, Exit.CONFIG):
        return Exit.FAILED
    return error.exit_code
