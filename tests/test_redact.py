"""Redaction: what looks like a secret stands in no recording, and the recording still replays."""

import getpass
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.recordings import recording_file as text
from agentd.recordings.finder import Finder, same_length
from tests.recorded import FETCHED, World, done, fetch, read, reader

# Made up, and put together here so that no scanner takes them for real ones.
TOKEN = "gh" + "p_" + "a1B2c3D4" * 4
LINES = ("MIIEvQIBADANBgkqh" * 3, "kiG9w0BAQEFAASC" * 3)
KEY = "\n".join(["-----BEGIN PRIVATE" + " KEY-----", *LINES, "-----END PRIVATE" + " KEY-----"])
STRIPE = "sk" + "_live_" + "a1B2c3D4" * 3
HOOK = "services/" + "T0A1B2C3/B0A1B2C3/" + "x9Y8z7" * 4
SECRETS = {
    "api": (f"use {TOKEN} here", TOKEN),
    "bearer": ("Authorization: Bearer abc.def-123456789", "abc.def-123456789"),
    "url": ("see https://joe:hunter2hunter@host.invalid/x", "hunter2hunter"),
    "env": ("export DB_PASSWORD=s3cr3tvalue\nOTHER=1", "s3cr3tvalue"),
    "json": ('{"client_secret": "qwertz12345"}', "qwertz12345"),
    "key": (KEY, "MIIEvQIBADANBgkqh" * 3),
    "aws": ("aws_secret_access_key = wJalr/XUtn+FEMI9K7MDENG", "wJalr/XUtn+FEMI9K7MDENG"),
    "yaml": ("db:\n  password: hunter2hunter  # old", "hunter2hunter"),
    "yaml word": ("db:\n  password: hunter", "hunter"),
    "yaml words": ("passphrase: correct horse battery", "correct horse battery"),
    "ini": ("[db]\npassword = p4ssw0rd!x", "p4ssw0rd!x"),
    "lower env": ("db_password=s3cr3tvalue", "s3cr3tvalue"),
    "query": ("GET https://h.invalid/a?x=1&access_token=abc123def&y=2", "abc123def"),
    "header": ("curl -H 'X-Api-Key: 9f8e7d6c5b' h.invalid", "9f8e7d6c5b"),
    "scheme": ("Authorization: token 9f8e7d6c5b4a", "9f8e7d6c5b4a"),
    "cookie": ("Set-Cookie: sid=9f8e7d6c5b4a; Path=/", "9f8e7d6c5b4a"),
    "netrc": ("machine h.invalid login joe password tr0ub4dor", "tr0ub4dor"),
    "stripe": (STRIPE, STRIPE),
    "pgp": (KEY.replace("PRIVATE KEY", "PGP PRIVATE KEY BLOCK"), LINES[1]),
    "slack": (f"https://hooks.slack.com/{HOOK}", HOOK.partition("/")[2]),
    "curl": ("curl -u joe:tr0ub4dor https://h.invalid", "tr0ub4dor"),
    "camel": ("{clientSecret: '9f8e7d6c'}", "9f8e7d6c"),
    "spaces": ('{"password": "two words"}', "two words"),
    "list": ('{"passwd": [\n  "qwertz12345"]}', "qwertz12345"),
    "quoted word": ('{"password": "swordfish"}', "swordfish"),
    "jwt": ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl", "eyJzdWIiOiIxMjM0"),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_in_a_file_stands_nowhere(world: World, kind: str) -> None:
    """Not in the log, not in the fixture, not in a decision; and the replay reads the same."""
    content, secret = SECRETS[kind]
    (world.notes / "a.txt").write_text(f"before\n{content}\nafter\n")
    search = {"tool": "search_text", "path": "", "text": "before"}
    recording, outcome = world.take(reader(world, [read("a.txt"), search, done(content[:100])]))
    written = text.write(recording)
    assert secret not in written and "redacted" in written
    assert outcome.difference is None and recording.given == frozenset()
    assert recording.head.redacted
    assert world.replay(recording).given == 0


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_a_secret_in_a_file_that_is_no_text_leaves_the_file_out(
    world: World, encoding: str
) -> None:
    """Its bytes cannot be replaced; what the tool said of it is taken as recorded."""
    content = "Grüße\nDB_PASSWORD=s3cr3tvalue\n"
    (world.notes / "a.txt").write_bytes(content.encode(encoding))
    (world.notes / "b.bin").write_bytes(b"\xff\x00 no secret")
    recording, outcome = world.take(reader(world, [read("a.txt"), read("b.bin"), done()]))
    assert set(recording.fixture.files) == {"0/b.bin"}
    assert "s3cr3tvalue" not in text.write(recording)
    assert outcome.difference is None and recording.head.redacted["file left out"] == 1


def test_a_cut_secret_is_one_as_well(world: World) -> None:
    """The beginning of a key, where a result was cut, is not left over."""
    (world.notes / "a.txt").write_text("x" * 15_900 + "\n" + KEY)
    recording, _ = world.take(reader(world, [read("a.txt"), done()]))
    assert "MIIEvQIBADAN" not in text.write(recording)


@pytest.mark.parametrize(
    "text",
    ["x", "a.", "a-", "\n", " ", "://", "eyJ", "token", "=", "a@", "/home/", "-----BEGIN PRIVATE"],
)
def test_rules_take_linear_time(text: str) -> None:
    """Long texts of whatever a rule begins with are no way to hang the recorder."""
    finder = Finder(scrub=True)
    assert finder.finds(text * (600_000 // len(text))) in (True, False)


def test_code_about_tokens_is_no_secret(world: World) -> None:
    """Names that only look like it are left alone: a redacted program would be another one."""
    code = (
        'tokenizer = "gpt2-medium"\ndef token(text: str) -> None:\n    tokens = count("abcdef")\n'
        "    secret: str | None = None\n    token = parts[1]\n    password = ask('joe')\n"
        "PASSWORD=${PASSWORD}\n"
    )
    (world.notes / "a.txt").write_text(code)
    recording, _ = world.take(reader(world, [read("a.txt"), done()]))
    assert recording.fixture.files["0/a.txt"].decode() == code


def test_values_under_telling_keys_are_secrets(world: World) -> None:
    """An event's or a fact's `password` is one, whatever it looks like."""
    world.write("reader", READER)
    world.publish("note.changed", {"password": "two words", "n": 1}, target="reader")
    recording, outcome = world.take(world.run("reader", [done()]))
    assert outcome.difference is None
    assert "two words" not in text.write(recording)
    assert recording.head.event.payload == {
        "password": same_length("redacted", "two words"),
        "n": 1,
    }


def test_all_below_a_telling_key_is_a_secret(world: World) -> None:
    """Lists, objects and numbers; in whichever case the key is written."""
    world.write("reader", READER)
    secrets = {
        "password": ["s3cr3t-1", {"value": "s3cr3t-2"}],
        "clientSecret": "s3cr3t-3",
        "accessKey": 271828182,
        "private_key": {"pem": "s3cr3t-4"},
        "env": [{"name": "DB_PASSWORD", "value": "s3cr3t-5"}],
        "argv": ["tool", "--password", "s3cr3t-6"],
        "headers": [["X-Api-Key", "s3cr3t-7"]],
    }
    world.publish("note.changed", {**secrets, "tokens": 5000}, target="reader")
    answer = done("s3cr3t-1, s3cr3t-3")
    recording, outcome = world.take(world.run("reader", [answer]))
    written = text.write(recording)
    assert outcome.difference is None
    assert "s3cr3t" not in written and "271828182" not in written
    assert recording.head.event.payload["tokens"] == 5000


def test_a_secret_stands_in_no_corner(world: World) -> None:
    """Not in a listing's names, not in the prompt, not in what an event is told apart by."""
    (world.notes / f"{TOKEN}.txt").write_text("x")
    listed = reader(world, [{"tool": "list_files", "path": str(world.notes)}, done(TOKEN)])
    toml = world.paths.agents_d / "reader.toml"
    toml.write_text(toml.read_text().replace("Read the note.", f"Use {TOKEN}, password: fish."))
    world.publish("note.changed", {}, target="reader")
    world.bus.db.run("UPDATE outbox SET dedup_key = ? WHERE id = 3", (TOKEN,))
    for session in (listed, world.run("reader", [done()])):
        recording, outcome = world.take(session)
        assert outcome.difference is None and recording.given == frozenset()
        written = text.write(recording)
        assert TOKEN not in written and "fish" not in written


def test_a_plain_word_is_replaced_in_its_place_alone(world: World) -> None:
    """A password that is a word of the prompt leaves the prompt and the decisions alone."""
    fetch(world)
    world.repo.commit("again", e__py="1\n")
    world.publish("agent.trigger", {"password": "code", "n": "code"}, target="repo_fetch")
    recording, outcome = world.take(world.run("repo_fetch", FETCHED))
    assert outcome.difference is None and recording.given == frozenset()
    assert recording.head.event.payload == {"password": "reda", "n": "code"}


def test_the_daemons_own_token_is_never_recorded(world: World) -> None:
    """Not even where a tool has read it."""
    world.paths.token.write_text("own-secret-of-the-daemon")
    (world.notes / "a.txt").write_text("it is own-secret-of-the-daemon, look\n")
    session = reader(world, [read("a.txt"), done()])
    world.paths.token.write_text("own-secret-of-the-daemon")
    recording, _ = world.take(session)
    assert "own-secret" not in text.write(recording)


def test_a_commit_with_a_secret_leaves_its_repository_out(world: World) -> None:
    """Objects cannot be changed without changing their ids: results are taken as recorded."""
    fetch(world)
    world.repo.commit("oops", env__txt=f"TOKEN={TOKEN}\n")
    world.publish("agent.trigger", {}, target="repo_fetch")
    recording, outcome = world.take(world.run("repo_fetch", FETCHED))
    assert outcome.difference is None and recording.given == {3}
    assert recording.fixture.repositories["0"].pack == b""
    assert recording.head.redacted == {"repository left out": 1}


def test_scrub_takes_names_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """User, host and e-mail names, and the folders of homes; everything still replays."""
    monkeypatch.setattr(getpass, "getuser", lambda: "joanna")
    monkeypatch.setattr(socket, "gethostname", lambda: "joannas-mac.lan")
    home = world.root / "home" / "joanna" / "notes"
    home.mkdir(parents=True)
    (home / "a.txt").write_text("joanna on joannas-mac: joanna.doe@corp.example.com\nmail me\n")
    (home / "a.txt").open("a").write("at jo@corp.com, in /Users/peter/x\n")
    world.notes = home
    session = reader(world, [read(str(home / "a.txt")), done("for joanna")])
    plain = text.write(world.take(session)[0])
    assert "joanna" in plain and "jo@corp.com" in plain
    recording, outcome = world.take(session, scrub=True)
    written = text.write(recording)
    assert outcome.difference is None and recording.given == frozenset()
    for name in ("joanna", "joannas-mac", "jo@corp.com", "peter"):
        assert name not in written
    assert "joanna.doe@corp.example.com" not in written
    assert "/Users/useru/x" in written and len(written) < len(plain) + 300
    assert set(recording.head.redacted) == {"e-mail address", "host name", "user name"}


def test_scrub_leaves_out_a_repository_with_a_persons_address(world: World) -> None:
    """An author's address stands in every commit; those of examples are nobody's."""
    session = fetch(world)
    recording, _ = world.take(session, scrub=True)
    assert recording.fixture.repositories["0"].pack
    (world.repo.path / "d.py").write_text("x")
    world.repo.git("add", "-A")
    world.repo.git("commit", "-q", "-m", "by another", "--author=Jo <jo@corp.com>")
    world.publish("agent.trigger", {}, target="repo_fetch")
    session = world.run("repo_fetch", FETCHED)
    recording, outcome = world.take(session, scrub=True)
    assert recording.fixture.repositories["0"].pack == b"" and outcome.difference is None


READER = """agent = "task"
done = "The note that was asked for is read."
subscribe = ["note.changed"]
[params]
instructions = "Read the note."
"""
