"""A small IMAP server for tests, over real sockets: mails in memory, and what it was told."""

import base64
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

USER, PASSWORD = "ada@example.org", 'a "pass" word\\1'
LITERAL = "{%d}\r\n"


class ImapServer(socketserver.ThreadingTCPServer):
    """`mails` are raw, by their number. `before` may answer a command in the server's place."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.mails: dict[int, bytes] = {}
        self.validity = 7
        self.told: list[str] = []  # commands, without their tags
        self.before: Callable[[Conversation, str], bool] = lambda _conversation, _command: False
        self.greeting = b"* OK hello\r\n"
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    @property
    def listed(self) -> str:
        """What [permissions] net names it."""
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        scheme = "imaps" if self.context else "imap"
        return f"{scheme}://ada%40example.org@localhost:{self.port}/INBOX"

    def deliver(self, *mails: bytes) -> None:
        for mail in mails:
            self.mails[max(self.mails, default=0) + 1] = mail

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        sock.settimeout(20)
        return sock, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Conversation(socketserver.StreamRequestHandler):
    server: ImapServer
    disable_nagle_algorithm = True

    def setup(self) -> None:
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        self.wfile.write(self.server.greeting)
        while line := self.rfile.readline():
            self.tag, _, command = line.decode().strip().partition(" ")
            self.server.told.append(command)
            if self.server.before(self, command):
                continue
            name = command.removeprefix("UID ").partition(" ")[0]
            getattr(self, f"do_{name.lower()}", self.do_unknown)(command)
            if name == "LOGOUT":
                return

    def say(self, text: str | bytes, end: bytes = b"\r\n") -> None:
        self.wfile.write((text if isinstance(text, bytes) else text.encode()) + end)

    def ok(self, text: str = "done") -> None:
        self.say(f"{self.tag} OK {text}")

    def do_unknown(self, command: str) -> None:
        self.say(f"{self.tag} BAD what is {command[:20]}")

    def do_capability(self, _: str) -> None:
        self.say("* CAPABILITY IMAP4rev1 AUTH=PLAIN")
        self.ok()

    def do_login(self, command: str) -> None:
        words = re.findall(r'"((?:\\.|[^"\\])*)"', command)
        self._signed([re.sub(r"\\(.)", r"\1", word) for word in words] == [USER, PASSWORD])

    def do_authenticate(self, command: str) -> None:
        self.say("+ ")
        given = base64.b64decode(self.rfile.readline()).split(b"\0")
        self._signed(given[1:] == ["ädä".encode(), "pässword".encode()])

    def _signed(self, right: bool) -> None:
        self.ok("[CAPABILITY IMAP4rev1]") if right else self.say(f"{self.tag} NO not you")

    def do_examine(self, command: str) -> None:
        if "INBOX" not in command:
            self.say(f"{self.tag} NO no such folder")
            return
        self.say(f"* {len(self.server.mails)} EXISTS")
        self.say(f"* OK [UIDVALIDITY {self.server.validity}] numbers")
        self.ok("[READ-ONLY] examined")

    def do_search(self, command: str) -> None:
        """`UID n:*`, or `n:*` by position."""
        numbers = sorted(self.server.mails)
        first = int(re.findall(r"(\d+):\*", command)[0])
        found = [n for n in numbers if n >= first] if "UID " + str(first) in command[4:] else None
        found = numbers[first - 1 :] if found is None else found or numbers[-1:]
        self.say(f"* SEARCH {' '.join(map(str, found))}")
        self.ok()

    def do_fetch(self, command: str) -> None:
        number = int(command.split()[2])
        mail = self.server.mails.get(number)
        if mail is not None:
            part = re.findall(r"BODY\.PEEK(\[.*?\])(?:<0\.(\d+)>)?", command)[0]
            data = mail[: int(part[1])] if part[1] else _message_id(mail)
            self.say("* 1 FETCH (FLAGS (\\Recent))")
            self.say(f"* 1 FETCH (UID {number} BODY{part[0]} {LITERAL % len(data)}", b"")
            self.say(data, b")\r\n")
        self.ok()

    def do_logout(self, _: str) -> None:
        self.say("* BYE")
        self.ok()


def _message_id(mail: bytes) -> bytes:
    found = re.search(rb"(?im)^message-id:.*\n", mail)
    return (found[0] if found else b"") + b"\r\n"
