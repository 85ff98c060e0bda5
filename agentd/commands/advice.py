"""What is legal in a configuration, and will not do what was meant: for `agentd check`.

A problem can never work. Advice is about what may come still, such as a folder on a disk that is
not there now, or be done by a person, such as waking an agent. A caution is about permissions that
are right, and yet not what they may look like.
"""

import os
import stat
import sys
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

from agentd.commands.mcp_checks import server_advice, server_problem
from agentd.config.agent import AgentConfig, Cron, Every, Permissions
from agentd.config.cron import Crontab
from agentd.config.daemon import DaemonConfig, load_daemon
from agentd.config.delivery import day_folder
from agentd.config.mail_url import WRITTEN, MailUrl
from agentd.config.secret_values import secret_value
from agentd.config.suggest import did_you_mean
from agentd.config.watched import Pattern
from agentd.errors import ConfigError, PermissionRefused, ToolError
from agentd.llm.decision import DONE
from agentd.llm.listing import read_key
from agentd.macos import developer_tools
from agentd.models import huggingface, store
from agentd.models.window import window_of
from agentd.paths import Paths, expanded
from agentd.process.environment import PROGRAM_PATH
from agentd.sandbox.level import reached
from agentd.task_agent.first_steps import FIELD
from agentd.tools.closed import Closed
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.http import Target, check_listed, check_url, listed_host
from agentd.tools.place import locate
from agentd.transcript import RESERVE_TOKENS

ANSWER_S = 1.0  # the least that a decision of a model is given
PROMPT_TOKENS = RESERVE_TOKENS + 64  # no agent's instructions and tools take less
OTHERS = 0o077  # mode bits of everybody else
WILDCARDS = frozenset("*?[")
HOUR = timedelta(hours=1)
CRON_RUNS_MAX = 60  # in an hour
SOME_DAY = datetime(2001, 1, 1, tzinfo=UTC)  # from here on a cron's first run is looked for


def daemon_problem(config: DaemonConfig, file: Path, paths: Paths) -> ConfigError | None:
    """Return why the model can never be reached, or results never be written, as it has them."""
    model = config.model
    try:
        day_folder(config.deliver, paths)
    except ConfigError as error:
        return error
    try:
        if model.url is None:
            store.resolve(model.name, paths.models)
        elif model.api_key_file is not None:
            read_key(model.api_key_file)
    except ConfigError as error:
        if model.url is None and _pullable(model.name):
            return server_problem(config.mcp, file)
        key = "name" if model.url is None else "api_key_file"
        return ConfigError(error.what, where=f"{file}: model.{key}", hint=error.hint)
    return server_problem(config.mcp, file)


def daemon_advice(file: Path, paths: Paths) -> Iterator[str]:
    """Yield what agentd.toml may not mean. Nothing of one that is wrong."""
    try:
        config = load_daemon(file)
    except ConfigError:
        return
    yield from server_advice(config.mcp)
    if config.deliver.notification is not None and sys.platform != "darwin":
        yield "[deliver.notification] shows nothing here: only a Mac has these notifications"
    model = config.model
    if model.url is None and _pullable(model.name):
        try:
            store.resolve(model.name, paths.models)
        except ConfigError as error:
            yield f"{error.what}: `{error.hint}`"
    if model.url is not None and (key := model.api_key_file) is not None:
        try:
            mode = stat.S_IMODE(expanded(key).stat().st_mode)
        except (OSError, ConfigError):
            return  # a problem, which is told as one
        if mode & OTHERS:
            yield f"others can read the key in {key}: `chmod 600 {key}`"


def _pullable(name: str) -> bool:
    return name in store.BUNDLED or huggingface.is_name(name)


def agent_problem(config: AgentConfig, file: Path) -> ConfigError | None:
    """Return the first permission that can never allow anything."""
    permissions = config.permissions
    for key in ("read", "write"):
        for entry in getattr(permissions, key):
            if not _absolute(entry):
                hint = 'write it as "/..." or "~/..."; variables are not read'
                return _never(f"{entry!r} is no absolute path", f"{file}: permissions.{key}", hint)
    for entry in permissions.run:
        if not entry or ("/" in entry and not _absolute(entry)):
            hint = "name a program, or write its whole path"
            return _never(f"{entry!r} is no program", f"{file}: permissions.run", hint)
    for entry in permissions.net:
        if not _can_match(entry):
            hint = 'write the host alone, "example.org", or "example.org:8080"; no wildcards'
            return _never(f"{entry!r} is no host", f"{file}: permissions.net", hint)
    return _account_problem(config, file)


def _account_problem(config: AgentConfig, file: Path) -> ConfigError | None:
    """Return the first account that can never be read, or is read and not there."""
    for name, account in config.accounts.items():
        try:
            target = Target.of_mail(MailUrl.of(account.url))
            check_listed(target, config.permissions.net)
        except PermissionRefused:
            return ConfigError(
                f"account {name}: its host is not listed",
                where=f"{file}: permissions.net",
                hint=f'add "{target.authority}"',
            )
        except ValueError as error:
            return ConfigError(str(error), where=f"{file}: accounts.{name}.url", hint=WRITTEN)
    steps = config.params.get("first", ())
    for step in steps if isinstance(steps, list) else ():
        source = step.get("ReadMail") if isinstance(step, dict) else None
        source = source.get("source") if isinstance(source, dict) else source
        if not isinstance(source, str) or source in config.accounts:
            continue
        if not source.startswith(("/", "~", "{")):
            return ConfigError(
                f"{source!r} is no account{did_you_mean(source, config.accounts)}",
                where=f"{file}: params.first",
                hint=f"describe it in [accounts.{source}], or write the path of a mailbox",
            )
    return None


def _never(what: str, where: str, hint: str) -> ConfigError:
    return ConfigError(f"{what}: it allows nothing", where=where, hint=hint)


def _absolute(entry: str) -> bool:
    try:
        return "\0" not in entry and expanded(entry).is_absolute()
    except ConfigError:
        return False


def _can_match(entry: str) -> bool:
    """Whether some URL is allowed by this entry of `net`."""
    host = listed_host(entry)
    if not host or "://" in entry or "*" in entry:
        return False
    try:
        check_url(f"http://{host}/", [entry])
    except ToolError:
        return False
    return True


def unlikely(config: AgentConfig) -> Iterator[str]:
    """Yield what an agent that is right will probably not do."""
    if not (config.subscribe or config.schedule or config.at or config.watch):
        yield "nothing wakes it: no `subscribe`, no `schedule`; only `agentd trigger` does"
    for moment in config.moments:
        if moment.moment.astimezone() <= datetime.now(UTC):
            yield f"at: {moment.at} is over: it wakes nobody any more"
    for pattern in map(Pattern.of, config.watch):
        if not pattern.folder.is_dir():
            yield f"watch: {pattern.folder} is not there, or no folder"
        elif not WILDCARDS & set(pattern.text) and pattern.folder.joinpath(*pattern.parts).is_dir():
            yield f"watch: {pattern.text} is a folder: write {pattern.text}/* for the files in it"
    steps = config.params.get("first", ()) if config.agent == "task" else ()
    if config.batch is not None and (field := FIELD.search(str(steps))):
        yield f"batch: {field[0]} in `first` is of one event; a batch has `events` alone"
    yield from _crowded(config)
    for key in ("read", "write"):
        for entry in getattr(config.permissions, key):
            path = expanded(entry)
            if not os.path.lexists(path):
                wild = "; wildcards are not read" if WILDCARDS & set(entry) else ""
                more = "" if key == "read" or wild else "; no tool makes it, a person must"
                yield f"permissions.{key}: {entry} is not there{wild}{more}"
            elif not os.access(path, os.R_OK if key == "read" else os.W_OK):
                yield f"permissions.{key}: {entry} is closed to this user"
    for entry in config.permissions.run:
        if developer_tools.which(str(expanded(entry)), PROGRAM_PATH) is None:
            words = "; name the program alone, without arguments" if " " in entry else ""
            yield f"permissions.run: {entry} is not installed in {PROGRAM_PATH}{words}"


def lacking(config: AgentConfig, paths: Paths) -> Iterator[str]:
    """Yield what an agent that is right needs, and this machine has not."""
    if config.permissions.apps and sys.platform != "darwin":
        yield "permissions.apps: this needs a Mac; its tools fail here"
    for name in sorted(config.secrets):
        try:
            secret_value(name, paths)
        except ConfigError as error:  # the daemon's environment may have it
            yield f"secret:{name}: {error.what}; {error.hint}"


def known_window(paths: Paths) -> int | None:
    """Return the tokens of the model's window, None where only the model server knows them."""
    try:
        model = load_daemon(paths.daemon_file).model
        if model.url is not None:
            return model.context_window
        own = window_of(store.resolve(model.name, paths.models))
    except ConfigError:
        return None
    return own if own is None else min(model.context_window or own, own)


def too_little(
    config: AgentConfig, decisions: Collection[str], window: int | None
) -> Iterator[str]:
    """Yield which limits leave an agent no chance. `decisions`: its union's classes."""
    limits = config.limits
    if limits.turns == 1 and any(name != DONE for name in decisions):
        yield "limits.turns = 1: Done is the only decision it may take; it never uses a tool"
    for key in ("deadline", "no_progress"):
        if getattr(limits, key).total_seconds() < ANSWER_S:
            yield f"limits.{key}: no model answers in less than {ANSWER_S:g} s"
    prompt = int((window or 0) * limits.context_share)
    if window is not None and prompt <= PROMPT_TOKENS:
        yield (
            f"limits.context_share = {limits.context_share:g}: {prompt} of the model's {window} "
            "tokens; its instructions and tools alone will not fit"
        )


def _crowded(config: AgentConfig) -> Iterator[str]:
    """Yield that a schedule is due more often in an hour than sessions may begin."""
    limit, schedule = config.limits.sessions_per_hour, config.schedule
    if isinstance(schedule, Every):
        crowded = schedule.every * limit < HOUR
    else:
        crowded = schedule is not None and limit < CRON_RUNS_MAX and _runs_beyond(schedule, limit)
    if crowded:
        yield (
            f"its schedule is due more often than {limit} times an hour, and [limits] "
            f"sessions_per_hour = {limit} lets no more sessions begin: the others wait"
        )


def _runs_beyond(schedule: Cron, limit: int) -> bool:
    """Whether an hour from its first run on has more than `limit` runs."""
    cron = Crontab(schedule.cron)
    first = run = cron.after(SOME_DAY, UTC)
    for _ in range(limit):
        run = run and cron.after(run, UTC)
    return first is not None and run is not None and run - first < HOUR


def spare(config: AgentConfig) -> Iterator[str]:
    """Yield the permissions of a `task` agent that none of its tools asks for.

    What the code of other agents reads and fetches is theirs to know.
    """
    tools: Collection[str] = REGISTRY
    if config.agent == "task":
        tools = (*config.params.get("tools", ()), *chain(*config.params.get("first", ())))
    needed = {kind for tool in tools if tool in REGISTRY for kind in REGISTRY[tool].needs}
    for kind in sorted(config.permissions.model_fields_set - needed):
        if getattr(config.permissions, kind):
            users = ", ".join(tool.name for tool in REGISTRY.values() if kind in tool.needs)
            yield f"permissions.{kind} is of no use: none of its tools needs it ({users} would)"


def cautions(name: str, permissions: Permissions, paths: Paths) -> Iterator[str]:
    """Yield what a person should know of an agent's permissions, a sentence each."""
    programs = ", ".join(permissions.run)
    if programs and reached().name == "checks":
        yield (
            f"{name} may run {programs}: without a sandbox a program has all the rights of this "
            "user, whatever `read`, `write` and `net` say, and many can be told to run others"
        )
    elif programs and permissions.write:
        yield (
            f"{name} may run {programs}: what they write into {', '.join(permissions.write)} may "
            "be run by others, such as a Makefile or a hook of git"
        )
    for app in (app for app in permissions.apps if app.startswith("shortcut:")):
        yield f"{name} may run the {app}: it does what you made it do, outside of any sandbox"
    closed = Closed.of(paths, name, None)
    for key in ("read", "write"):
        places = getattr(permissions, key)
        # For writing, all hidden links of the home are looked up: not for nothing.
        marks = closed.marks(writing=key == "write") if places else None
        for place in places:
            try:
                locate(str(expanded(place)), [place], marks)
            except (ToolError, ConfigError) as error:
                yield f"{name} lists {place} in `{key}` in vain: {error.what}"
