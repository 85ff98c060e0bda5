"""The sockets on which a running supervisor is asked and woken; made again where they are removed.

Programs that clean folders for temporary files do that, to sockets that nobody touched for days.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agentd.bus.wake import Ear, listening
from agentd.errors import StorageError
from agentd.events import DAEMON
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.supervisor.client import USE
from agentd.supervisor.requests import Answer, Asker

ANSWER_S = 5.0  # for all of an answer: a reader that never reads is dropped
QUESTION_S = 1.0  # a client that asks nothing in particular, and does not say so, waits so long
QUESTION_BYTES = 64

Told = Callable[[bool], Awaitable[Mapping[str, Any]]]


class Sockets:
    """The status socket and the supervisor's own wake-up socket.

    `told` gives what the supervisor says of itself; by True also what its processes take.
    """

    def __init__(self, paths: Paths, told: Told, woken: Callable[[], None], log: Logger) -> None:
        self._paths, self._told, self._woken, self._log = paths, told, woken, log
        self._server: asyncio.Server | None = None
        self._made = False  # the folder is there, and ours
        self._inode = 0  # the status socket's, once it is known
        self._ear: Ear | None = None

    async def open(self) -> None:
        """Make both, and their folder.

        Raises:
            StorageError: one of them cannot be made.
        """
        self._paths.create_private()
        self._made = True
        await self._serve()
        self._listen()

    async def restore(self) -> None:
        """Make again what is gone, with the folders of all sockets and locks.

        Raises:
            StorageError: something cannot be made now.
        """
        self._paths.create_private()
        if self._server is not None and not _is(self._paths.status_socket, self._inode):
            await self._serve()
            self._log.warning("socket.made_again", path=str(self._paths.status_socket))
        if self._ear is not None and not self._ear.in_place:
            self._listen()
            self._woken()  # who rang meanwhile was not heard
            self._log.warning("socket.made_again", path=str(self._ear.path))

    async def ear(self, asker: Asker, _: dict[str, Any]) -> Answer:
        """Answer a worker with the socket on which it is woken: its sandbox lets it make none."""
        with listening(self._paths.wake, asker.name) as sock:
            return {}, [os.dup(sock.fileno())]

    def stop_listening(self) -> None:
        """Hear no more commands; `status` is still answered."""
        if self._ear is not None:
            asyncio.get_running_loop().remove_reader(self._ear.fileno())
            self._ear.close()
            self._ear = None

    def close(self) -> None:
        """Answer no more, and remove what is ours, once nobody else of this home runs."""
        self.stop_listening()
        if self._server is not None:
            self._server.close()
            self._server = None
        path = self._paths.status_socket
        if self._made and (not path.exists() or _is(path, self._inode) or not self._inode):
            path.unlink(missing_ok=True)  # else it is a successor's by now
            self._paths.model_socket.unlink(missing_ok=True)
            self._remove_folder()

    def _remove_folder(self) -> None:
        """Remove the folder that the sockets have elsewhere."""
        if not self._paths.sockets_apart:
            return
        with contextlib.suppress(OSError):  # not empty: something in it is none of ours
            for socket in self._paths.wake.glob("*.sock"):
                socket.unlink(missing_ok=True)
            self._paths.wake.rmdir()
            self._paths.sockets.rmdir()

    async def _serve(self) -> None:
        path = self._paths.status_socket
        if self._server is not None:
            self._server.close()
        try:
            path.unlink(missing_ok=True)  # a dead supervisor's: we hold the lock
            self._server = await asyncio.start_unix_server(self._answer, path)
            path.chmod(0o600)
            self._inode = path.stat().st_ino
        except OSError as error:
            raise StorageError(
                f"cannot make the status socket: {error}",
                where=str(path),
                hint="make its folder writable, and its path shorter than 104 bytes",
            ) from error

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(QUESTION_S):
                        question = await reader.read(QUESTION_BYTES)
                writer.write(json.dumps(await self._told(question == USE)).encode())
                await writer.drain()
        writer.close()

    def _listen(self) -> None:
        ear = Ear(self._paths.wake, DAEMON)
        self.stop_listening()
        self._ear = ear
        asyncio.get_running_loop().add_reader(ear.fileno(), self._ring, ear)

    def _ring(self, ear: Ear) -> None:
        ear.drain()
        self._woken()


def _is(path: Path, inode: int) -> bool:
    try:
        return path.lstat().st_ino == inode
    except OSError:
        return False
