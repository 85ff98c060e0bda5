"""What counts as a secret, and with `scrub` as a name: rules, and the finder that applies them."""

import getpass
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

LEAST = 4  # characters of a secret; shorter ones are words
NAME_LEAST = 3  # characters of a person's or a machine's name
NAME = (
    r"(?:(?:api|access|account|private|secret|signing|encryption)[ _-]?key|token|secret"
    # The shell's PWD is a folder.
    r"|passw(?:or)?d|passphrase|pwd(?!\"?[ \t]{0,4}[:=][ \t]{0,4}/)|credentials?)"
)
IS = r"\\?[\"']?[ \t]{0,4}[:=]{1,2}>?[ \t]{0,4}"
VALUE = r"[^\s\"'#]{4,500}"
# What stands after a name without quotes: no type, placeholder, call or index of a program.
BARE = (
    r"(?!(?:None|null|true|false|str|string|bytes|int|bool|any|object)(?![^\s|,;)\]])"
    r"|[$%]?[{(<\[]|\$(?-i:[A-Z_]{2})|[A-Za-z_][\w.]{0,80}[(\[]|[\s=])"
)
# No rule may take more than linear time: what tools read can be long, and from anywhere.
KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----(.{1,20000}?)(?:-----END|\Z)", re.DOTALL
)
KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{8,}")
SETTING = "setting"
RULES = {
    "bearer token": re.compile(r"(?i)\bbearer[ \t]{1,4}([A-Za-z0-9._~+/=-]{8,})"),
    "basic authentication": re.compile(r"(?i)\bbasic[ \t]{1,4}([A-Za-z0-9+/=]{12,})"),
    "authorization": re.compile(
        rf"(?i)\bauthorization{IS}[\"']?(?:[\w-]{{1,20}}[ \t]{{1,4}})?([^\s\"',]{{8,500}})"
    ),
    "cookie": re.compile(rf"(?i)\bcookie{IS}[\"']?([^\s\"';=]{{1,100}}=[^\s\"';]{{4,500}})"),
    "password in a URL": re.compile(r"://[^/\s:@\"']{0,100}:([^/\s@\"']{1,200})@"),
    "password of a command": re.compile(
        r"(?:\s-u|--user)[ \t=]{0,4}[\"']?[^\s:\"']{1,100}:([^\s\"']{1,200})"
    ),
    "netrc": re.compile(r"\blogin\s{1,9}\S{1,100}\s{1,9}password\s{1,9}(\S{1,200})"),
    "webhook": re.compile(
        r"(?:hooks\.slack\.com/\w{1,20}|discord(?:app)?\.com/api/webhooks)/([\w/-]{8,200})"
    ),
    "API key": re.compile(
        r"\b((?:sk-|pk-|[spr]k_(?:live|test)_|rk_|whsec_|hf_|gh[opsur]_|github_pat_|glpat-|xox[abeprs]-"
        r"|xapp-|npm_|pypi-|dop_v1_|shp[a-z]{2}_|ya29\.|SG\.)[\w.-]{8,}"
        r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,})"
    ),
    "JSON web token": re.compile(r"\b(eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"),
    "assignment": re.compile(
        rf"(?m)^[ \t]{{0,20}}(?:export[ \t])?(?=[A-Z0-9_]{{3,140}}[ \t]{{0,4}}=)[A-Z0-9_]{{0,60}}?"
        rf"(?i:{NAME})[A-Z0-9_]{{0,40}}[ \t]{{0,4}}=[ \t]{{0,4}}[\"']?{BARE}({VALUE})"
    ),
    "named secret": re.compile(
        rf"(?i){NAME}(?:[_.-]\w{{1,30}})?{IS}[\[\s]{{0,8}}\\?[\"']([^\"'\\\n]{{4,500}})\\?[\"']"
    ),
    SETTING: re.compile(rf"(?i){NAME}{IS}{BARE}([^\s\"'#&;,)][^\s\"'&;,)]{{3,500}})"),
}
# A line that is nothing but a setting: all of its value, which may be several words.
LINE = re.compile(
    rf"(?im)^[ \t+*-]{{0,20}}(?:export[ \t])?[\w.-]{{0,60}}?{NAME}{IS}{BARE}"
    r"([^\s\"'#(][^\n\"'(]{2,200})$"
)
# Words, names of a program, and short numbers stand in many places with another meaning.
PLAIN = re.compile(r"[A-Za-z]{1,20}(?:[._][A-Za-z]{1,20}){0,8}[.;:]?|\d{1,8}")
TELLING = re.compile(rf"(?i)(?:.*[_. -])?(?:{NAME}|authorization|cookie)")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b")
# Reserved for examples (RFC 2606), and what is scrubbed already.
NOBODY = re.compile(r"@(?:.+\.)?(?:example\.\w+|\w+\.(?:invalid|example|test))$|^x[x.+-]*@x")
PERSONAL_FOLDER = re.compile(r"/(?:home|Users)/([^/\s\"'<>:]+)")
NO_NAMES = frozenset({"root", "user", "users", "localhost", "host"})


def same_length(word: str, text: str) -> str:
    """Return as many characters as `text` has, of `word` again and again; line ends stay."""
    filled = (word * (len(text) // len(word) + 1))[: len(text)]
    return "".join("\n" if c == "\n" else f for c, f in zip(text, filled, strict=True))


class Key(str):
    """A key of JSON."""


class Named(str):
    """A text that stands under a telling key, such as `password`."""


def telling(key: str) -> bool:
    """Whether all that stands under this key is a secret: `password`, `clientSecret`."""
    return TELLING.fullmatch(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)) is not None


def masked(text: str) -> str:
    """Return what is written in the place of a secret; a placeholder stays."""
    if text.startswith("redacted") or set(text) <= set("*x.<>${}[]"):
        return text
    return same_length("redacted", text)


@dataclass(frozen=True)
class Change:
    """What is put in the place of a secret, and by which rule."""

    instead: str
    rule: str


@dataclass
class Finder:
    """Collects what is to be replaced.

    A secret is replaced wherever it stands. A plain word that is one is so in its own place, and in
    others only if nothing else is called by it: see `settle`.
    """

    scrub: bool
    found: dict[str, Change] = field(default_factory=dict)
    words: dict[str, Change] = field(default_factory=dict)  # only where they stand alone
    plain: dict[str, str] = field(default_factory=dict)  # words that are secrets, by rule

    def __post_init__(self) -> None:
        if not self.scrub:
            return
        home, host = Path.home(), socket.gethostname()
        for name in (getpass.getuser(), home.name):
            self._word("user name", name, "user")
        for name in (host, host.partition(".")[0]):
            self._word("host name", name, "host")

    def note(self, rule: str, secret: str) -> bool:
        """Remember a secret; False for what is none, or was one."""
        if len(secret) < LEAST or masked(secret) == secret:
            return False
        self.found.setdefault(secret, Change(masked(secret), rule))
        return True

    def finds(self, text: str) -> bool:
        """Find secrets in a text; say whether there are any, those found before included."""
        hit = any(secret in text for secret in self.found)
        found = [("named secret", str(text))] if isinstance(text, Named) else []
        for rule, pattern in RULES.items():
            found += [(rule, match[1]) for match in pattern.finditer(text)]
        for rule, secret in found:
            if PLAIN.fullmatch(secret) is None:
                hit |= self.note(rule, secret)
            elif rule != SETTING and len(secret) >= LEAST and masked(secret) != secret:
                self.plain.setdefault(secret, rule)
                hit = True
        for block in KEY_BLOCK.finditer(text):
            for line in KEY_LINE.finditer(block[1]):
                hit |= self.note("private key", line[0])
        return self._personal(text) or hit if self.scrub else hit

    def settle(self, said: Iterable[str]) -> None:
        """Let plain words be replaced wherever they stand alone, but those that are `said`."""
        spoken = {word for text in said for word in re.findall(r"[A-Za-z0-9]+", text)}
        for secret, rule in self.plain.items():
            parts = re.findall(r"[A-Za-z]+", secret)
            if parts and not spoken.intersection(parts):
                self.words.setdefault(secret, Change(masked(secret), rule))

    def _personal(self, text: str) -> bool:
        hit = any(re.search(alone(word), text) for word in self.words)
        for match in EMAIL.finditer(text):
            if not NOBODY.search(match[0]):
                masked = re.sub(r"\w", "x", match[0])
                self.found.setdefault(match[0], Change(masked, "e-mail address"))
                hit = True
        for match in PERSONAL_FOLDER.finditer(text):
            hit |= self._word("user name", match[1], "user")
        return hit

    def _word(self, rule: str, name: str, word: str) -> bool:
        if len(name) < NAME_LEAST or name in NO_NAMES or set(name) <= set(word):
            return False
        self.words.setdefault(name, Change(same_length(word, name), rule))
        return True


def alone(word: str) -> str:
    """Return a pattern that matches the word, but not inside another one."""
    return rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])"
