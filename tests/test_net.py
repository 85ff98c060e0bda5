"""The HTTP client under both sides: TLS, deadlines and stops on a real socket."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from agentd.clock import SystemClock
from agentd.config.agent import Permissions
from agentd.errors import ModelMisconfigured, Stopped, ToolError
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.net.connection import connected, look_up_in_time
from agentd.net.exchange import Response, exchange
from agentd.net.wait import Deadline, Passed, Waiter
from agentd.process.stop import Cancel
from agentd.testing import wait_for
from agentd.tools.toolbox import Toolbox
from tests.ports import free_port

BODY = b"0123456789abcdef" * 200_000  # more than the sockets hold
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: text/plain\r\n\r\n"
pytestmark = pytest.mark.agentd_online  # servers of its own
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(folder / "key"), "-out", str(folder / "cert")),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    both = folder / "both.pem"
    both.write_bytes((folder / "cert").read_bytes() + (folder / "key").read_bytes())
    return both


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate, as one that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


@contextmanager
def serving(answer: Callable[[socket.socket], None], certificate: Path | None) -> Iterator[int]:
    """A server on loopback, under TLS where there is a certificate; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listening.accept()
                    with suppress(OSError), peer:
                        if certificate is None:
                            answer(peer)
                            continue
                        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                        context.load_cert_chain(certificate)
                        with context.wrap_socket(peer, server_side=True) as wrapped:
                            answer(wrapped)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def asked(
    port: int,
    seconds: float,
    cancel: Cancel | None = None,
    *,
    secure: bool = False,
    body: bytes | None = None,
    waiter: type[Waiter] = Waiter,
) -> Iterator[Response]:
    with ExitStack() as stack:
        deadline = Deadline(SystemClock(), seconds)
        waits = stack.enter_context(waiter.of(deadline, cancel or Cancel()))
        connection = stack.enter_context(connected(["::1", "127.0.0.1"], port, waits))
        if secure:
            connection.encrypt("localhost")
        yield exchange(connection, "POST", f"localhost:{port}", "/", {}, body)


def whole(peer: socket.socket) -> None:
    """Take a request with a large body, slowly, and send it back."""
    received = b""
    # All of it, head included: who closes with words unread takes back what it said.
    while len(received.partition(b"\r\n\r\n")[2]) < len(BODY):
        received += peer.recv(20_000)
    peer.sendall(OK % len(BODY) + BODY)


def silent(peer: socket.socket) -> None:
    """Begin an answer, and wait until the caller has gone."""
    peer.recv(65_536)
    peer.sendall(OK % 5 + b"be")
    peer.recv(1)


def deaf(peer: socket.socket) -> None:
    """Take nothing, and wait until a byte comes that never does."""
    HELD.wait(20)


HELD = threading.Event()
KINDS = [False, pytest.param(True, marks=needs_openssl)]


@pytest.mark.parametrize("secure", KINDS)
def test_a_large_exchange(secure: bool, request: pytest.FixtureRequest) -> None:
    """More than the sockets hold goes both ways; the second address of the host answers."""
    certificate = request.getfixturevalue("trusted") if secure else None
    with (
        serving(whole, certificate) as port,
        asked(port, 30, secure=secure, body=BODY) as reply,
    ):
        assert b"".join(reply.pieces()) == BODY
        assert reply.status == 200 and reply.missing == 0


@pytest.mark.parametrize("secure", KINDS)
def test_a_silent_server_meets_the_deadline(secure: bool, request: pytest.FixtureRequest) -> None:
    """In the middle of an answer, and under TLS as well."""
    certificate = request.getfixturevalue("trusted") if secure else None
    with (
        serving(silent, certificate) as port,
        pytest.raises(Passed),
        asked(port, 0.5, secure=secure) as reply,
    ):
        list(reply.pieces())


@pytest.mark.parametrize("secure", KINDS)
def test_a_stop_ends_a_read(secure: bool, request: pytest.FixtureRequest) -> None:
    """From another thread, without an end of the connection that TLS would not survive."""
    certificate = request.getfixturevalue("trusted") if secure else None
    cancel, begun, waiting = Cancel(), threading.Event(), threading.Event()

    class Watched(Waiter):
        def ready(self, sock: socket.socket, event: int, seconds: float) -> bool:
            if begun.is_set():
                waiting.set()
            return super().ready(sock, event, seconds)

    def stop() -> None:
        waiting.wait(20)
        cancel.stop()

    began = time.monotonic()
    threading.Thread(target=stop).start()
    with (
        serving(silent, certificate) as port,
        pytest.raises(Stopped),
        asked(port, 60, cancel, secure=secure, waiter=Watched) as reply,
    ):
        for _ in reply.pieces():
            begun.set()
    assert time.monotonic() - began < 20


def test_a_server_that_takes_nothing_meets_the_deadline() -> None:
    """A request may be larger than what fits on the way."""
    try:
        with (
            serving(deaf, None) as port,
            pytest.raises(Passed),
            asked(port, 0.3, body=BODY * 4),
        ):
            pass
    finally:
        HELD.set()


@needs_openssl
def test_a_certificate_that_nobody_trusts_is_refused(certificate: Path) -> None:
    """Neither a page nor a model is asked there; both say why."""
    with serving(silent, certificate) as port:
        place = f"localhost:{port}"
        with pytest.raises(ToolError, match="certificate verify failed"):
            Toolbox(Permissions(net=(place,))).call("HttpGet", {"url": f"https://{place}/"})
        endpoint = Endpoint(lambda: Address(f"https://{place}/v1", "m"), own=False)
        with pytest.raises(ModelMisconfigured, match=r"self.signed"):
            endpoint.chat({}, {}, deadline_s=10.0, progress=lambda: None)


def test_nothing_of_an_exchange_stays_open() -> None:
    """Its sockets are closed where it ended, also where nobody answered."""
    before = len(list(Path("/dev/fd").iterdir()))
    cancel = Cancel()
    for _ in range(3):
        with (
            serving(silent, None) as port,
            pytest.raises(Passed),
            asked(port, 0.2, cancel) as reply,
        ):
            list(reply.pieces())
    with pytest.raises(ConnectionRefusedError), asked(free_port(), 5, cancel):
        pass
    with Waiter.of(Deadline(SystemClock(), 30), cancel) as waiter:
        assert look_up_in_time("127.0.0.1", 80, waiter) == ["127.0.0.1"]
    wait_for(lambda: len(list(Path("/dev/fd").iterdir())) <= before)
