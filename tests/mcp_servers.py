"""`python -m tests.mcp_servers FOLDER`: real MCP servers, each tool admitted and called once.

FOLDER holds what these made there:

    uv venv venv && uv pip install --python venv/bin/python mcp-server-{git,time,fetch}
    npm install @modelcontextprotocol/server-{filesystem,everything,memory,sequential-thinking}

Prints a table. With --starts N a server of the standard library is started so often, and a real one
twenty times, and it is told what was left.
"""

import argparse
import asyncio
import functools
import http.server
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import psutil

from agentd.admission.admit import admit
from agentd.admission.version import Accepted, import_version
from agentd.config.daemon import load_daemon
from agentd.errors import AgentdError
from agentd.llm.baml import load_client
from agentd.llm.union import Union
from agentd.mcp.definitions import decision_of
from agentd.model_server.language.language import ModelLanguage
from agentd.paths import Paths, discover
from agentd.process.jobs import in_thread
from agentd.supervisor.mcp_discovery import tools_of
from agentd.testing.tiny_model import make_tiny
from tests.commandline import write_agent
from tests.mcp_hosting import Hosting, hosting, left, python_server
from tests.schemas.trial import attempt

FAKE = Path(__file__).with_name("fake_mcp_server.py")
AGENT = """agent = "task"
done = "Every tool was called once."
[params]
instructions = "Call them."
tools = {tools}
"""
REAL_STARTS = 20
WIDTH = 60  # of a result in the table
# It can only be called as a task, of the protocol of 2025 alone: its server says so.
REFUSED = {"everything.simulate-research-query": "requires task augmentation"}


def servers(folder: Path, place: Path) -> dict[str, tuple[str, list[str]]]:
    """Return each server's program and arguments."""
    python, node = folder / "venv/bin", folder / "node_modules/.bin"
    return {
        "git": (f"{python}/mcp-server-git", []),
        "time": (f"{python}/mcp-server-time", []),
        "fetch": (f"{python}/mcp-server-fetch", ["--allow-private-ips"]),
        "filesystem": (f"{node}/mcp-server-filesystem", [str(place)]),
        "everything": (f"{node}/mcp-server-everything", []),
        "memory": (f"{node}/mcp-server-memory", []),
        "thinking": (f"{node}/mcp-server-sequential-thinking", []),
    }


def arguments(place: Path, repository: Path, url: str) -> dict[str, dict[str, Any]]:
    """Return what each tool is called with, in an order that makes sense."""
    repo, text = {"repo_path": str(repository)}, str(place / "a.txt")
    entity = {"name": "Ada", "entityType": "person", "observations": ["counts"]}
    relation = {"from": "Ada", "to": "Eve", "relationType": "knows"}
    return {
        "git.git_status": repo,
        "git.git_diff_unstaged": repo,
        "git.git_add": {**repo, "files": ["b.txt"]},
        "git.git_diff_staged": repo,
        "git.git_diff": {**repo, "target": "HEAD"},
        "git.git_commit": {**repo, "message": "Second"},
        "git.git_reset": repo,
        "git.git_log": {**repo, "max_count": 2, "start_timestamp": None},
        "git.git_create_branch": {**repo, "branch_name": "other"},
        "git.git_checkout": {**repo, "branch_name": "other"},
        "git.git_show": {**repo, "revision": "HEAD"},
        "git.git_branch": {**repo, "branch_type": "local"},
        "time.get_current_time": {"timezone": "Europe/Vienna"},
        "time.convert_time": {
            "source_timezone": "Europe/Vienna",
            "time": "12:30",
            "target_timezone": "Asia/Tokyo",
        },
        "fetch.fetch": {"url": url, "max_length": 100},
        "filesystem.write_file": {"path": text, "content": "one\ntwo\n"},
        "filesystem.read_file": {"path": text, "head": 1},
        "filesystem.read_text_file": {"path": text},
        "filesystem.read_media_file": {"path": text},
        "filesystem.read_multiple_files": {"paths": [text]},
        "filesystem.edit_file": {
            "path": text,
            "edits": [{"oldText": "two", "newText": "three"}],
            "dryRun": True,
        },
        "filesystem.create_directory": {"path": str(place / "d")},
        "filesystem.list_directory": {"path": str(place)},
        "filesystem.list_directory_with_sizes": {"path": str(place), "sortBy": "name"},
        "filesystem.directory_tree": {"path": str(place)},
        "filesystem.move_file": {"source": text, "destination": str(place / "d/b.txt")},
        "filesystem.search_files": {"path": str(place), "pattern": "*.txt"},
        "filesystem.get_file_info": {"path": str(place)},
        "filesystem.list_allowed_directories": {},
        "everything.echo": {"message": "hi"},
        "everything.get-annotated-message": {"messageType": "error", "includeImage": True},
        "everything.get-env": {},
        "everything.get-resource-links": {"count": 2},
        "everything.get-resource-reference": {"resourceType": "Text", "resourceId": 1},
        "everything.get-structured-content": {"location": "Chicago"},
        "everything.get-sum": {"a": 1, "b": 2.5},
        "everything.get-tiny-image": {},
        "everything.gzip-file-as-resource": {
            "name": "a.gz",
            "data": "data:text/plain;base64,aGk=",
            "outputType": "resource",
        },
        "everything.toggle-simulated-logging": {},
        "everything.toggle-subscriber-updates": {},
        "everything.trigger-long-running-operation": {"duration": 1, "steps": 2},
        "everything.simulate-research-query": {"topic": "tides"},
        "memory.create_entities": {"entities": [entity, {**entity, "name": "Eve"}]},
        "memory.create_relations": {"relations": [relation]},
        "memory.add_observations": {
            "observations": [{"entityName": "Ada", "contents": ["writes"]}]
        },
        "memory.read_graph": {},
        "memory.search_nodes": {"query": "Ada"},
        "memory.open_nodes": {"names": ["Ada"]},
        "memory.delete_observations": {
            "deletions": [{"entityName": "Ada", "observations": ["writes"]}]
        },
        "memory.delete_relations": {"relations": [relation]},
        "memory.delete_entities": {"entityNames": ["Ada"]},
        "thinking.sequentialthinking": {
            "thought": "First, look.",
            "nextThoughtNeeded": False,
            "thoughtNumber": 1,
            "totalThoughts": 1,
        },
    }


def main() -> int:
    """Print the tables; 1 if a tool was not admitted, or its call failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mcp_servers", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--starts", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentd-mcp-") as name:
        root = Path(name).resolve()
        paths, calls = prepared(root, given.folder.resolve())
        return asyncio.run(tried(paths, calls, root, given.starts))


def prepared(root: Path, folder: Path) -> tuple[Paths, dict[str, dict[str, Any]]]:
    """Return a home with all servers, and the calls."""
    place, repository = root / "place", root / "repository"
    place.mkdir()
    repository.mkdir()
    (repository / "b.txt").write_text("b\n")
    first = "git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m First"
    subprocess.run(["/bin/sh", "-c", first], cwd=repository, check=True)
    (place / "index.html").write_text("<html><body><p>Hello from a page.</p></body></html>")
    handler = functools.partial(_Pages, directory=str(place))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    paths = discover({"AGENTD_HOME": str(root / "home")})
    paths.create()
    own = {"memory": {"MEMORY_FILE_PATH": str(place / "memory.json")}}
    own["git"] = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b"}
    own["git"] |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    permissions = {
        "git": f"read = ['{repository}'], write = ['{repository}'], run = ['git']",
        "fetch": f"net = ['127.0.0.1:{web.server_address[1]}'], run = ['node']",
        "filesystem": f"read = ['{place}'], write = ['{place}']",
        "memory": f"read = ['{place}'], write = ['{place}']",
        "fake": f"read = ['{FAKE}']",
    }
    node = {"PATH": f"{Path(shutil.which('node') or '/usr/bin/node').parent}:/usr/bin:/bin"}
    text = f"[mcp.fake]\n{python_server(FAKE)}permissions = {{ {permissions['fake']} }}\n"
    for server, (command, args) in servers(folder, place).items():
        env = ", ".join(f'{k} = "{v}"' for k, v in {**node, **own.get(server, {})}.items())
        text += f"[mcp.{server}]\ncommand = '{command}'\nargs = {json.dumps(args)}\n"
        text += f"string_max = 400\nenv = {{ {env} }}\n"
        text += f"permissions = {{ {permissions.get(server, '')} }}\n"
    paths.daemon_file.write_text(text)
    url = f"http://127.0.0.1:{web.server_address[1]}/index.html"
    return paths, arguments(place, repository, url)


class _Pages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


async def tried(paths: Paths, calls: Mapping[str, dict[str, Any]], root: Path, starts: int) -> int:
    """Admit and call, and print what came of it."""
    failed = 0
    language = ModelLanguage(make_tiny(root / "tiny"))
    daemon = load_daemon(paths.daemon_file)
    print(f"{'tool':44}{'reads':>6}{'mask ms':>8}{'answers':>8}{'call ms':>8}  result")
    agents: dict[str, Accepted] = {}
    async with hosting(paths) as host:
        for server in [name for name in daemon.mcp if name != "fake"]:
            tools = sorted(await in_thread(tools_of, server, daemon, paths))
            named = [f"{server}.{tool}" for tool in tools]
            write_agent(paths.user, server, AGENT.format(tools=json.dumps(named)))
            started = time.perf_counter()
            agents[server] = accepted = admit(server, paths)
            took = time.perf_counter() - started
            version = import_version(accepted)
            union = Union(
                load_client(version.client_dir),
                version.function,
                version.members,
                version.arguments,
                version.mcp,
            )
            union.frame({"done": accepted.config.done, "instructions": "x"})
            print(f"{server}: {len(tools)} tools admitted in {took:.1f} s")
            for name in [name for name in calls if name.startswith(f"{server}.")]:
                failed += not await called(host, accepted, union, language, name, calls[name])
        missing = sum(len(a.config.params["tools"]) for a in agents.values()) - len(calls)
        print(f"{len(calls)} tools called, {missing} more are there, {failed} failed")
        if starts:
            await started_often(host, paths, agents["memory"], starts)
    return 1 if failed or missing else 0


async def called(
    host: Hosting,
    accepted: Accepted,
    union: Union,
    language: ModelLanguage,
    name: str,
    args: dict[str, Any],
) -> bool:
    """Try a tool's mask, read an answer, make the call; print a line."""
    decision = decision_of(name)
    schema = union.schema({decision})
    trial = attempt(language, schema, random.Random(name))
    raw = json.dumps({"tool": name, "arguments": args})
    jsonschema.validate(json.loads(raw), schema)
    assert union.parse(raw, frozenset(union.members))[:2] == (decision, args), name
    mcp = import_version(accepted).mcp
    started = time.perf_counter()
    try:
        value: Any = (await host.call(accepted, mcp, decision, args)).value
        good = not trial.illegal and not trial.refused
        said = str(value.get("text", value.get("structured")))
    except AgentdError as error:
        said = f"{type(error).__name__}: {error.what}"
        good = name in REFUSED and REFUSED[name] in said
    took_ms = (time.perf_counter() - started) * 1000
    said = trial.refused or said
    print(
        f"{name:44}{'yes' if mcp[decision].reads else 'no':>6}{trial.compile_s * 1000:8.0f}"
        f"{trial.answers - len(trial.illegal):8}{took_ms:8.0f}  {' '.join(said.split())[:WIDTH]!r}"
    )
    return good


async def started_often(host: Hosting, paths: Paths, memory: Accepted, starts: int) -> None:
    """Start servers again and again, and print what is left of it."""
    write_agent(paths.user, "fake", AGENT.format(tools='["fake.echo"]'))
    fake = admit("fake", paths)
    for accepted, name, args, server, count in (
        (fake, "FakeEcho", {"text": "x"}, "fake", starts),
        (memory, "MemoryReadGraph", {}, "memory", REAL_STARTS),
    ):
        mcp = import_version(accepted).mcp
        await host.call(accepted, mcp, name, args)
        await host.restart(server)
        the_host = psutil.Process(host.host._host.child.pid)  # type: ignore[union-attr]
        before = (*left(), the_host.num_fds(), the_host.memory_info().rss)
        started = time.perf_counter()
        for _ in range(count):
            await host.call(accepted, mcp, name, args)
            await host.restart(server)
        took = time.perf_counter() - started
        after = (*left(), the_host.num_fds(), the_host.memory_info().rss)
        print(
            f"{count} starts of {server} in {took:.0f} s: descriptors {before[0]} -> {after[0]}, "
            f"processes {before[1]} -> {after[1]}; the host's descriptors {before[2]} -> "
            f"{after[2]}, memory {before[3] / 1e6:.0f} -> {after[3] / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    sys.exit(main())
