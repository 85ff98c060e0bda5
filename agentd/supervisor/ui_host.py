"""The page's process as the supervisor runs it: always by [ui] port, else while somebody looks.

The process reads for itself. What its person wants done is a command of `agentd` that runs here, as
if that person had typed it: all that commands check holds for the page.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.bus.json_text import is_utf8
from agentd.errors import AgentdError, ConfigError
from agentd.paths import private_folder
from agentd.process.child import Child
from agentd.process.jobs import fault, in_thread
from agentd.sandbox.enter import put_into
from agentd.states import WorkerState
from agentd.supervisor.children import Managed
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.loopback import HOST, loopback
from agentd.supervisor.one_job import run_to_end
from agentd.supervisor.one_time_link import page_key
from agentd.supervisor.records import Records
from agentd.supervisor.requests import Answer, Asker, Handler, Hearing, Requests
from agentd.supervisor.restart import Life
from agentd.supervisor.ui_policy import NAME, ui_policy

PORT_KEY = "ui.port"  # of agentd.toml
STOP_S = 1.0
IDLE_S = 600.0  # nobody looked for so long
PARKED_S = 60.0  # from a crash loop to one more try
JOB = "agentd.act"  # the name of the process that carries a command out
ACT_S = 30.0  # for one, and for those before it
WAITING_MAX = 8  # commands at a time
TAKE_S = 10.0  # for the process to read an answer
ANSWERS_MAX = 64  # that are being given: each takes a descriptor of ours
# The commands that a page's click can stand for; None: with any word behind it.
ACTS: Mapping[str, frozenset[str] | None] = {
    **dict.fromkeys(("answer", "ask", "trigger", "pause", "resume", "correct"), None),
    **dict.fromkeys(("reload", "enable", "disable"), None),
    "dead": frozenset({"retry", "drop"}),
}


class UiHost:
    """Runs it. In the event loop.

    `status` gives what the supervisor says of itself, by True with what its processes take.
    """

    def __init__(
        self,
        parts: HostParts,
        records: Records,
        status: Callable[[bool], Coroutine[Any, Any, Mapping[str, Any]]],
        life: Life,
    ) -> None:
        self._parts, self._records, self._status = parts, records, status
        self._kept: int | None = None  # [ui] port
        self._port = 0  # the one in use, or used last: pages that are open find it again
        self._wanted_at = parts.clock.monotonic()  # when somebody last asked for it
        self._acting = asyncio.Lock()
        self._waiting = self._answers = 0
        self._closed = False
        handlers: Mapping[str, Handler] = {
            "page_key": self._key,
            "status": self._tell_status,
            "index": self._index,
            "act": self._act,
        }
        self._requests = Requests(handlers, lambda _: None, parts.log)
        self.managed = Managed(
            NAME, self._spawn, life, parts.reaper, hear=self._hear, log=parts.log, clock=parts.clock
        )

    def document(self) -> dict[str, Any] | None:
        """Return what `status` says; None where there is no page."""
        if self._kept is None and self.managed.life.state is WorkerState.STOPPED:
            return None
        url = f"http://{HOST}:{self._port}"
        more = {"url": url, "kept": self._kept is not None, "problem": self.managed.problem}
        return {**self.managed.document(), **more}

    def configure(self) -> None:
        """Start it, move it or stop it, as [ui] says by now. Returns at once."""
        port = self._parts.config().ui.port
        if port == self._kept:
            return
        self._kept = port
        if port is None:
            self.managed.stop(WorkerState.STOPPED, "[ui] names no port", grace_s=STOP_S)
            return
        if port != self._port or self.managed.pid is None:
            self._port = port
            self.managed.life.forgive()
            self.managed.restart()

    def open(self) -> None:
        """Somebody wants to look: see to it that there is a process. Returns at once."""
        self._wanted_at = self._parts.clock.monotonic()
        if self._closed:
            return
        self.managed.life.forgive()
        if self.managed.life.stopping:  # nobody had looked for long
            self.managed.restart()
        else:
            self.managed.start()

    def poll(self) -> None:
        """Stop it if nobody has looked for long; give it another try after a crash loop."""
        life, beat = self.managed.life, self.managed.beat
        rested_s = (self._parts.clock.now() - life.since).total_seconds()
        if self._kept is None:
            unasked_s = self._parts.clock.monotonic() - self._wanted_at
            if min(beat.get("idle_s", 0.0), unasked_s) > IDLE_S and not life.stopping:
                self.managed.stop(WorkerState.STOPPED, "nobody looks at it", grace_s=STOP_S)
        elif life.state is WorkerState.PARKED and rested_s > PARKED_S and not self._closed:
            life.try_once()
            self.managed.start()

    async def stop(self) -> None:
        """Stop it for good, and return when it is gone."""
        self._closed = True
        self.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=STOP_S)
        await self.managed.gone()

    def _spawn(self) -> Child:
        paths = self._parts.paths
        with contextlib.suppress(OSError):  # a full disk: it has no log
            private_folder(paths.log(NAME).parent)
        with self._listening() as listening:
            self._port = listening.getsockname()[1]
            fd = listening.fileno()
            argv = put_into(ui_policy(paths), self._parts.commands.ui(fd))
            return self._parts.spawn(NAME, argv, pass_fds=(fd,))

    def _listening(self) -> socket.socket:
        try:
            return loopback(self._port, PORT_KEY)
        except ConfigError:
            if self._kept is not None:
                raise
            return loopback(0, PORT_KEY)

    def _hear(self, child: Child) -> Hearing:
        assert child.control is not None
        return self._requests.hear(child.control, Asker(NAME, "", child.pid))

    # --- what it may ask for

    async def _key(self, _: Asker, __: dict[str, Any]) -> Answer:
        return {"key": (await in_thread(page_key, self._parts.paths)).hex()}, ()

    async def _tell_status(self, _: Asker, document: dict[str, Any]) -> Answer:
        return {}, [self._apart(self._status(document.get("use") is True))]

    async def _index(self, _: Asker, __: dict[str, Any]) -> Answer:
        await self._records.index()
        return {}, ()

    async def _act(self, _: Asker, document: dict[str, Any]) -> Answer:
        argv = allowed(document.get("argv"))
        if self._waiting >= WAITING_MAX:
            raise AgentdError("too much is being done at once", hint="try again in a moment")
        return {}, [self._apart(self._done(argv))]

    def _apart(self, answer: Coroutine[Any, Any, Mapping[str, Any]]) -> int:
        """Return a socket's descriptor by which the answer comes: it may be long, and late.

        Raises:
            AgentdError: too many are being given.
        """
        if self._answers >= ANSWERS_MAX:
            answer.close()
            raise AgentdError("too much is asked at once", hint="try again in a moment")
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        self._answers += 1
        self._parts.jobs.start(self._send(ours, answer), NAME).add_done_callback(self._answered)
        return theirs.detach()

    def _answered(self, _: object) -> None:
        self._answers -= 1

    async def _send(
        self, sock: socket.socket, answer: Coroutine[Any, Any, Mapping[str, Any]]
    ) -> None:
        """Send an answer to who may be gone, or read slowly."""
        with sock:
            try:
                data = json.dumps(await answer).encode()
            except Exception as error:  # the top of what a child can cause; its traceback is logged
                self._parts.log.error("request.raised", agent=NAME, exc_info=error)
                data = json.dumps({"failed": fault(error).document()}).encode()
            with contextlib.suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout(TAKE_S):
                    await asyncio.get_running_loop().sock_sendall(sock, data)

    async def _done(self, argv: Sequence[str]) -> Mapping[str, Any]:
        self._waiting += 1
        try:
            async with asyncio.timeout(ACT_S), self._acting:
                return await self._carried_out(argv)
        except TimeoutError:
            error = AgentdError(f"{argv[0]}: not done within {ACT_S:g} s")
        except (AgentdError, OSError) as raised:
            error = raised if isinstance(raised, AgentdError) else AgentdError(str(raised))
        finally:
            self._waiting -= 1
        return {"code": None, "document": None, "error": str(error)}

    async def _carried_out(self, argv: Sequence[str]) -> Mapping[str, Any]:
        """Run a command, as a process that is gone afterwards."""
        parts = self._parts
        told, written = os.pipe()
        os.set_blocking(told, False)
        try:
            with Path(os.devnull).open("rb") as nothing:
                stdio = (nothing.fileno(), written)
                try:
                    command = parts.commands.command([argv[0], "--json", *argv[1:]])
                    child = parts.spawn(JOB, command, control=False, stdio=stdio)
                finally:
                    os.close(written)
            ran = await run_to_end(child, parts.reaper, None, told)
        finally:
            os.close(told)
        parts.log.info("ui.acted", command=argv[0], code=ran.code)
        return {
            "code": ran.code,
            "document": _document(ran.told),
            "error": ran.output.decode(errors="replace").strip() if ran.code else "",
        }


def allowed(argv: object) -> list[str]:
    """Return a command line that a page may stand for.

    Raises:
        AgentdError: it may not.
    """
    if not (isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv)):
        raise AgentdError("no command line")
    second = ACTS.get(argv[0], frozenset())
    if second is not None and not second.intersection(argv[1:2]):
        raise AgentdError(f"the page may not do this: {' '.join(argv)[:80]!r}")
    if any("\0" in word or not is_utf8(word) for word in argv):
        raise AgentdError("a word of this command is no text", where=argv[0])
    return argv


def _document(told: bytes) -> Any:
    """Return the one JSON document that a command printed, or the text that it is."""
    text = told.decode(errors="replace").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text or None
