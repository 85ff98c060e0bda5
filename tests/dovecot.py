"""A real IMAP server, dovecot, as a process of a test's own: with TLS, in a folder of its own."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.ports import free_port
from tests.supervised import wait_for

PROGRAM = shutil.which("dovecot", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
PASSWORD = "correct-horse-9"
CONFIG = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{certificate}
ssl_key = <{certificate}
default_internal_user = {internal}
default_internal_group = {group}
default_login_user = {internal}
mail_location = maildir:{folder}/mail
first_valid_uid = 1
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
}}
"""


class Dovecot:
    """Serves one Maildir, `mail`, on localhost. To be closed."""

    def __init__(self, certificate: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-imap-"))
        root = os.geteuid() == 0  # it serves no mail as root
        user = pwd.getpwnam("nobody" if root else getpass.getuser())
        internal = pwd.getpwnam("dovecot") if root else user
        self.port = free_port()
        for name in ("run", "state", "mail/new", "mail/cur", "mail/tmp"):
            (self.folder / name).mkdir(parents=True)
        pem = self.folder / "both.pem"
        pem.write_bytes(certificate.read_bytes())
        config = self.folder / "dovecot.conf"
        config.write_text(
            CONFIG.format(
                folder=self.folder,
                certificate=pem,
                internal=internal.pw_name,
                group=_group(internal.pw_gid),
                password=PASSWORD,
                uid=user.pw_uid,
                gid=user.pw_gid,
                port=self.port,
            )
        )
        self.folder.chmod(0o755)
        if root:
            for path in (self.folder / "mail", *(self.folder / "mail").rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        assert PROGRAM is not None
        self.process = subprocess.Popen(
            [PROGRAM, "-F", "-c", str(config)], stderr=subprocess.STDOUT, stdout=subprocess.DEVNULL
        )
        wait_for(self._answers, "dovecot listens")

    def _answers(self) -> bool:
        log = self.folder / "log"
        assert self.process.poll() is None, log.read_text() if log.exists() else "it ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    @property
    def url(self) -> str:
        return f"imaps://ada%40example.org@localhost:{self.port}/INBOX"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)


def _group(gid: int) -> str:
    import grp

    return grp.getgrgid(gid).gr_name
