"""Secrets: one set of rules finds them in logs, errors and recordings, in linear time."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from agentd import secret_rules
from agentd.bus.dead import short_error
from agentd.config.daemon import LogConfig
from agentd.errors import AgentdError
from agentd.logs import logger as log
from agentd.paths import Paths
from agentd.process.heart import Heart
from agentd.recordings.finder import Finder
from agentd.recordings.redact import Writer
from agentd.secret_rules import REDACTED, hide
from agentd.supervisor.checks import refused
from agentd.supervisor.child_output import ChildOutput
from agentd.testing import ManualClock

# Made up, and put together here so that no scanner takes them for real ones.
MIX = "a1B2c3D4" * 5
PEM = "-----BEGIN {}PRIVATE" + " KEY-----\n" + f"{MIX}\n" * 3 + "-----END {}PRIVATE" + " KEY-----\n"
JWT = "ey" + "JhbGciOiJIUzI1NiJ9." + "ey" + "JzdWIiOiIxMjM0In0." + "c2lnbmF0dXJl"
KEYS = [
    "AK" + "IAIOSFODNN7EXAMPLE",
    "AS" + "IAIOSFODNN7EXAMPLE",
    *(
        prefix + MIX
        for prefix in (
            *("gh" + letter + "_" for letter in "opsur"),
            *("github" + "_pat_", "gl" + "pat-", "gl" + "dt-", "sk" + "-", "sk" + "-proj-"),
            *("sk" + "-ant-api03-", "sk" + "_live_", "rk" + "_live_", "pk" + "_test_"),
            *(
                "wh" + "sec_",
                "xo" + "xb-12-",
                "xo" + "xp-",
                "xa" + "pp-1-",
                "np" + "m_",
                "hf" + "_",
            ),
            *("py" + "pi-", "AI" + "za", "GOC" + "SPX-", "gs" + "k_", "S" + "G.", "ya" + "29."),
        )
    ),
    JWT,
]
TEXTS: dict[str, tuple[str, str]] = {
    **{key[:12]: (f"the server said {key}, no", key) for key in KEYS},
    **{f"behind - {key[:6]}": (f"x_-{key}.", key) for key in KEYS if key is not JWT},
    "basic": ("sent Authorization: Basic dXNlcjpwYXNz to it", "dXNlcjpwYXNz"),
    "short basic": ("authorization: basic YTpi", "YTpi"),
    "proxy": ("Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    "bearer": ("Authorization: Bearer hunter2", "hunter2"),
    "bearer alone": (f"bearer {MIX}", MIX),
    "digest": ('Digest username="joe", response="6629fae49393a053"', "6629fae49393a053"),
    "CGI": ("HTTP_AUTHORIZATION=Basic YTpi HTTP_COOKIE=sid=9f8e", "YTpi"),
    "scheme": ("Authorization: ApiKey zz9plural", "zz9plural"),
    "header": ("X-Api-Key: 9f8e7d6c5b", "9f8e7d6c5b"),
    "cookie": ("Cookie: theme=dark; sid=9f8e7d6c5b4a; x=1", "9f8e7d6c5b4a"),
    "set-cookie": ("Set-Cookie: sid=9f8e7d6c5b4a; Path=/", "9f8e7d6c5b4a"),
    "url": ("cloning https://me:hunter2@h.invalid/x.git", "hunter2"),
    "url with @": ("cloning https://me:hun@ter2@h.invalid/x.git", "ter2"),
    "database": ("postgres://app:s3cr3t@db.invalid:5432/x", "s3cr3t"),
    "token in a url": ("https://9f8e7d6c5b4a3210@h.invalid/x.git", "9f8e7d6c5b4a3210"),
    "query": ("GET https://h.invalid/a?x=1&access_token=abc123def&y=2", "abc123def"),
    "signed": ("https://h.invalid/a?X-Amz-Signature=0123456789abcdef", "0123456789abcdef"),
    "password=": ("password=swordfish", "swordfish"),
    "password:": ("cannot log in with password: swordfish", "swordfish"),
    "passwd": ("passwd = 'two words'", "two words"),
    "escaped": (r'{"password": "pa\\ss-w0rd"}', "ss-w0rd"),
    "in JSON in JSON": (r'"{\"api_key\": \"qwertz12345\"}"', "qwertz12345"),
    "repr": ("{'client_secret': 'qwertz12345'}", "qwertz12345"),
    "long": (f'"token": "{MIX * 40}"', MIX),
    "long setting": (f"token={MIX * 40}", MIX),
    "aws": ("aws_secret_access_key = wJalr/XUtn+FEMI9K7MDENG", "wJalr/XUtn+FEMI9K7MDENG"),
    "AWS": ("AWS_SECRET_ACCESS_KEY=wJalr/XUtn+FEMI9K7MDENG", "wJalr/XUtn+FEMI9K7MDENG"),
    "aws json": ('"SecretAccessKey": "wJalr/XUtn+FEMI9K7MDENG"', "wJalr/XUtn+FEMI9K7MDENG"),
    "azure": ("x;AccountKey=qwertz12345==;y", "qwertz12345"),
    "apikey": ("apikey=qwertz12345", "qwertz12345"),
    "curl": ("curl -u joe:tr0ub4dor https://h.invalid", "tr0ub4dor"),
    "netrc": ("machine h.invalid login joe password tr0ub4dor", "tr0ub4dor"),
    "slack hook": ("https://hooks.slack.com/services/T0A1/B0A1/x9Y8z7", "x9Y8z7"),
    "line": ("passphrase: correct horse battery", "correct horse battery"),
    **{kind or "plain": (PEM.format(kind, kind), MIX) for kind in ("", "RSA ", "EC ", "OPENSSH ")},
    "pem in JSON": (json.dumps({"k": PEM.format("", "")}), MIX),
    "pem cut off": (PEM.format("", "")[:80], MIX),
}
S = "hunter22!x"
HEX = "0123456789abcdef" * 2
TEXTS |= {
    "google calendar": (
        f"https://h.invalid/calendar/ical/a%40h.invalid/private-{HEX}/basic.ics",
        HEX,
    ),
    "calendar": (f"cannot read https://h.invalid/x/{HEX}.ics: 404", HEX),
    "webcal": (f"webcal://p1.h.invalid/published/2/{MIX}", MIX),
    "icloud": (f"https://p1-caldav.icloud.com/published/2/{MIX}", MIX),
    "feed by key": ("https://h.invalid/feed?key=hunter22&n=1", "hunter22"),
    "feed by a long key": (f"https://h.invalid/.rss?feed={HEX}&user=ada", HEX),
    "aligned": (f"password            = {S}", S),
    "aligned with tabs": (f"api_key\t\t\t:\t\t'{S}'", S),
    "no-break space": (f"password:\xa0{S}", S),
    "coloured": (f"\x1b[31mpassword\x1b[0m: \x1b[1m{S}\x1b[0m", S),
    "option": (f"ran tool --password {S} --x", S),
    "option of a word": ("ran tool --db-password swordfish", "swordfish"),
    "option with =": (f"ran tool --api-key={S}", S),
    "option in a list": (f"['mysql', '--password', '{S}']", S),
    "sshpass": (f"sshpass -p {S} ssh h", S),
    "mysql": (f"mysqldump -h h -u u -p{S} db", S),
    "redis": (f"redis-cli -h h -a {S} get x", S),
    "header pair": (f"[('X-Api-Key', '{S}')]", S),
    "header pair of bytes": (f"[(b'x-auth-token', b'{S}')]", S),
    "authorization pair": (f"[('Authorization', 'Token {S}')]", S),
    "pair in JSON": (f'[["a", "b"], ["password", "{S}"]]', S),
    "docker": ('{"auths": {"h": {"auth": "dXNlcjpwYXNz"}}}', "dXNlcjpwYXNz"),
    "npm": ("//h.invalid/:_auth=dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    "auth key": (f"auth_key={S}", S),
    "wifi": (f"psk={S}", S),
    "pass": (f"smtp_pass: {S}", S),
    "aws signature": (f"Authorization: AWS4-HMAC-SHA256 Credential=x, Signature={HEX}", HEX),
    "azure header": (f"Ocp-Apim-Subscription-Key: {S}", S),
    "php": (f"PHPSESSID={HEX}", HEX),
    "session id": (f"GET /x;jsessionid={HEX}", HEX),
    "percent": ("Authorization%3A%20Bearer%20hunter22x", "hunter22x"),
    "element": (f"<db:password>{S}</db:password>", S),
    "attribute": (f'<add key="DbPassword" value="{S}"/>', S),
    "name and value": (f'{{"name": "DB_PASSWORD", "value": "{S}"}}', S),
    "url with /": (f"postgres://app:pa/{S}@db.invalid/x", S),
    "twilio": (f"sid SK{HEX}", f"SK{HEX}"),
    "mailgun": (f"key-{HEX}", f"key-{HEX}"),
    "discord": ("MTIzNDU2Nzg5MDEyMzQ1Njc4OTA" + ".GabcDe." + "a1-" * 12, "a1-" * 12),
    "terraform": ("abcdefghij1234" + ".atlasv1." + MIX, MIX),
    **{
        f"key {prefix}": (f"said {prefix}{MIX}.", prefix + MIX)
        for prefix in (
            *(
                "sbp" + "_",
                "do" + "o_v1_",
                "AT" + "BB",
                "pscale" + "_tkn_",
                "fo" + "1_",
                "rnd" + "_",
            ),
            *("sntry" + "s_", "GR13" + "48941", "HRKU" + "-", "secret" + "_", "s" + "l."),
            *("dp" + ".pt.", "CFPAT" + "-", "xkeysib" + "-"),
        )
    },
}
# What goes on over lines; a child's output is looked at line by line.
BLOCKS = {
    "yaml block": (f"password: |\n  {S}\n  more\nuser: x", S),
    "next line": (f"password:\n  {S}\nuser: x", S),
    "listed": (f"tokens:\n  - {S}\n", S),
    "kubernetes": (f"- name: DB_PASSWORD\n  value: {S}\n", S),
    "putty": (f"Private-Lines: 2\n{MIX}\n{MIX}\nPrivate-MAC: 1", MIX),
}
HARMLESS = [
    "model.token: cannot be read: Permission denied",
    "others may read this token",
    "a wrong or missing bearer token",
    "basic settings are missing",
    "prompt_tokens=1234 max_tokens=256, 12 tokens: too many",
    "from huggingface_hub import hf_hub_download",
    "task-force-members risk-assessment desk-top-computer",
    "https://user@h.invalid/x and git@h.invalid:x/y.git, ssh://git@h.invalid/x",
    "http://127.0.0.1:8080/v1/models",
    "2026-01-01T09:00:00.000Z  session 7 ended",
    "the key 'limits.turns' is unknown",
    "PWD=/home/joe/folder",
    'File "/x/worker.py", line 81, in _ship\n    token = read_token(path)',
    "http://127.0.0.1:8080/x/@scope/y and https://h.invalid:443/a@b",
    '["password", "username", "email"]',
    "argument --token: expected one argument",
    "bypass: everything, pass: checked, compass: north-east",
    "Enter your password:\nThen press return.",
    "tokens:\n  prompt: 12\n  decision: 7",
    "session_id: 12, session 12345678, sessions: 123456789",
    "key-value task-list rnd_seed_value secret_name_of_the_thing",
    "<token-count>1234 of them</count>",
]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path, tmp_path, tmp_path / "logs", tmp_path / "run", tmp_path / "run")
    paths.create()
    return paths


@pytest.mark.parametrize("kind", [*TEXTS, *BLOCKS])
def test_a_secret_is_found_by_logs_and_recordings_alike(kind: str) -> None:
    """Logs get a word in its place, recordings as many characters; told twice, nothing changes."""
    text, secret = (TEXTS | BLOCKS)[kind]
    hidden = hide(text)
    assert secret not in hidden and REDACTED in hidden
    assert hide(hidden) == hidden
    finder = Finder(False)
    finder.finds(text)
    finder.settle([])
    written = Writer(finder).text(text)
    assert secret not in written and len(written) == len(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_tells_of_secrets_stays(text: str) -> None:
    """Errors about tokens and keys are what a person needs to read."""
    assert hide(text) == text


@pytest.mark.parametrize("kind", TEXTS)
def test_no_secret_reaches_a_log_file(paths: Paths, kind: str) -> None:
    """As a value, a key, bytes, inside of both, in an error and its traceback."""
    text, secret = TEXTS[kind]
    logger = log.configure("one", paths, LogConfig())
    logger.info("a.b", v=text, deep=[{"x": (text,)}], **{"a " + text: 1}, d={text: {text: 2}})
    logger.info("a.c", raw=text.encode(), raws={text.encode(): [bytearray(text.encode())]})
    logger.info("a.d", long="x " * 5000 + text + " y" * 5000, other=ValueError(text))
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError("later") from error
    except RuntimeError:
        logger.exception("a.e")
    log.close()
    written = paths.log("one").read_text()
    assert secret not in written and json.dumps(secret)[1:-1] not in written
    assert written.count("\n") == 4


@pytest.mark.parametrize(
    "value",
    [
        {"password": "zz9"},
        {"a": [{"clientSecret": {"b": ["zz9"]}}]},
        {b"Authorization": b"zz9"},
        [("content-type", "x"), ("Set-Cookie", "zz9")],
        [(b"x-api-key", b"zz9")],
        {"apiKey": "zz9", "jwt": "zz9", "aws_secret_access_key": "zz9", "private-key": "zz9"},
        {"API_KEYS": ["zz9"], "db.password": "zz9", "password_hash": "zz9"},
        {"env": [{"name": "DB_PASSWORD", "value": "zz9"}, {"value": "zz9", "key": "token"}]},
        ["mysql", "--password", "zz9"],
        ("tool", b"--api-key", b"zz9", "-token", "zz9"),
    ],
)
def test_what_stands_under_a_telling_key_reaches_no_log(value: Any) -> None:
    """Whatever it is, and however deep."""
    assert "zz9" not in json.dumps(log.redact({"v": value}))
    assert REDACTED in json.dumps(log.redact(value))


@pytest.mark.parametrize("kind", TEXTS)
def test_no_secret_stands_where_errors_are_kept(kind: str) -> None:
    """Dead letters, sessions, `status`, failed.json, and what a child said of itself."""
    text, secret = TEXTS[kind]
    error = AgentdError(text, where=text, hint=text)
    written = str([short_error("x " * 950 + text), *error.document().values(), refused(text)])
    assert secret not in written
    read, write = os.pipe()
    with os.fdopen(read, "rb") as told:
        Heart(write).problem(error)
        os.close(write)
        assert secret not in told.read().decode()


@pytest.mark.parametrize("kind", TEXTS)
def test_what_a_child_prints_is_logged_without_secrets(paths: Paths, kind: str) -> None:
    """Also a private key, whose lines come one by one; what comes behind it is logged again."""
    text, secret = TEXTS[kind]
    logger = log.configure("one", paths, LogConfig())
    output = ChildOutput("two", logger, ManualClock())
    for line in f"{text}\n-----END it\nnothing said\n".encode().splitlines(keepends=True):
        output.feed(line)
    last = output.end()
    output.feed(text.encode())
    last += output.end()
    log.close()
    written = paths.log("one").read_text()
    assert "nothing said" in written
    assert secret not in written + last


def test_a_key_that_the_cut_goes_through_is_hidden() -> None:
    """Long values lose their middle; half a private key there is still one."""
    body = "\n".join([MIX] * 400)
    pem = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"
    for before in (0, 1000, 3990, 100_000):
        logged = log.redact("x" * before + pem)
        assert MIX not in logged and len(logged) <= log.TEXT_MAX + 100


# Each fragment is repeated: what a rule may begin with, and never end.
FRAGMENTS = [
    *("/a1", "/a1a1a1a1a1a1a1a1", "/", "/.", "?a=a", "?a1a=", "?key=", "webcal://a/", "webcal://"),
    *("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n", "-----BEGIN ", "-----"),
    *(
        "eyJaaaaaaaa-",
        "eyJaaaaaaaa.",
        ".eyJaaaaaaaa",
        "-eyJ",
        "sk-",
        "-sk-aaaaaaa",
        "x-sk-",
        "AIza-",
    ),
    *("password=", "password: [", "password=a ", "password:", "password ", "passwordpassword"),
    *("token token=", 'token"', "token_a", "token_a: [ ", "token= ", 'token="\\', "token='\\a"),
    *(
        "a",
        "A",
        "A_",
        "A=",
        "_TOKEN",
        "TOKEN",
        "\nA",
        "\nTOKEN ",
        "\n TOKEN=(",
        "\n",
        "\n \t",
        " \t",
    ),
    *(
        "://",
        "://a:",
        "://a:b",
        "://1",
        "://a1a1a1a1a1a1",
        "/home/",
        "/home/a ",
        "a@",
        "a@a.",
        "a@-",
    ),
    *("cookie: ", "cookie: a=", "cookie:a=;", "authorization: a ", "authorization ", "bearer "),
    *(
        "bearer a",
        "basic ",
        "basic A",
        "digest ",
        "digest a",
        "login ",
        "login a password",
        "login\t",
    ),
    *(
        " -u",
        " --user ",
        "--user a:",
        "hooks.slack.com/a/",
        "?sig=",
        "1234567890:AA",
        "api_key: a ",
    ),
    *("dapi", "credential: a(", "secret.a", "pwd:", 'pwd": /', "aA", "- ", '"', "'", "\\"),
    *(
        "--password ",
        "--",
        "-a-",
        "password\x1b[m",
        "\x1b[m",
        "password\xa0",
        "mysql -",
        "sshpass ",
    ),
    *(
        "password',",
        "password', '",
        "<password>",
        "<password a",
        "<a:",
        "name: password ",
        "name=a",
    ),
    *("password: |\n", "password: |\n a\n", "password:\n", "password:\n a", "sessionid=", "rnd_a"),
    *("Private-Lines: 1\n", "a1b2\n", "M" * 25 + ".", "a.atlasv1.", "://a:1/", "://a:a/a", "SK0"),
]
SECRETS = {
    "keys": lambda n: f"sk-a1b2c{n:06} ",
    "passwords": lambda n: f"password={n:06}a1 ",
    "any": lambda n: f"token={n * 7919 % 1_000_003:06x}zz1 ",
    "growing": lambda n: "sk-" + "a1" * (4 + n % 40) + " ",
}


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_hiding_takes_linear_time(fragment: str) -> None:
    """Ten times the text takes about ten times as long, whatever it repeats."""
    small, large = (fragment * (n // len(fragment)) for n in (10_000, 100_000))
    check_linear(hide, small, large)


@pytest.mark.parametrize("fragment", ["/home/", "/home/a ", "a@", "a@a.", "a@-", "a@a-.", "x@x."])
def test_finding_names_takes_linear_time(fragment: str) -> None:
    """So does what `--scrub` looks for."""
    small, large = (fragment * (n // len(fragment)) for n in (10_000, 100_000))
    check_linear(lambda text: Finder(True).finds(text), small, large)


@pytest.mark.parametrize("kind", SECRETS)
def test_replacing_many_secrets_takes_linear_time(kind: str) -> None:
    """Thousands of different secrets in one recording are replaced as fast, each, as a few."""
    small, large = ("".join(map(SECRETS[kind], range(n))) for n in (1_000, 10_000))

    def replaced(text: str) -> str:
        finder = Finder(False)
        finder.finds(text)
        return Writer(finder).text(text)

    check_linear(replaced, small, large)


def check_linear(work: Any, small: str, large: str) -> None:
    """Quadratic is a hundred times as long for ten times the text; a busy machine gets slack."""
    for _ in range(3):
        first, then = spent(work, small), spent(work, large)
        if then < 0.15 or then < 30 * first:
            return
    raise AssertionError(f"{len(small)} took {first:.3f} s, {len(large)} took {then:.3f} s")


def spent(work: Any, text: str) -> float:
    began = time.process_time()
    work(text)
    return time.process_time() - began


def test_every_rule_has_an_example() -> None:
    """A new rule comes with a text that it alone, or it first, finds."""
    for rule, pattern in secret_rules.RULES.items():
        assert any(pattern.search(text) for text, _ in (TEXTS | BLOCKS).values()), rule
