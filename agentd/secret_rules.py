"""What counts as a secret in a text or under a key: one set of rules, for logs and recordings.

Recordings can also be scrubbed of names: of people, machines and their addresses.

No rule may take more than linear time: a text may be long, and come from anywhere. So whatever a
rule looks at before it matches is bounded, and what it then takes is never looked at again.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
LEAST = 4  # characters of a secret; shorter ones are words
LINE_LEAST = 8  # of a line of a secret of several lines

NAME = (
    r"(?:(?:a(?:pi|ccess|ccount|uth)|private|secret|signing|encryption|subscription|master|deploy)"
    r"[ _-]?keys?|token|secrets?|(?<![a-z])(?:pass|psk)(?![a-z])"
    # The shell's PWD is a folder.
    r"|passw(?:or)?ds?|passphrase|passcode|pwd(?!\"?[ \t]{0,4}[:=][ \t]{0,4}/)|credentials?)"
)
# Blanks as people align settings, and the colours that a program prints between name and value.
GAP = r"(?:[ \t\xa0]|\x1b\[[\d;]{0,20}m){0,40}+"
IS = rf"(?:\x1b\[[\d;]{{0,20}}m)?\\?[\"']?{GAP}(?:[:=]{{1,2}}>?|%3[ad]){GAP}"
# What stands after a name without quotes: no type, placeholder, call or index of a program.
BARE = (
    r"(?!(?:None|null|true|false|str|string|bytes|int|bool|any|object)(?![^\s|,;)\]])"
    r"|[$%]?[{(<\[]|\$(?-i:[A-Z_]{2})|[A-Za-z_][\w.]{0,80}[(\[]|[\s=])"
)
KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----((?:[^-]|-(?!----)){1,20000}+)"
)
# A value of one word that no prose would be: `password:` in a line, `hunter2` in the next.
NO_PROSE = r"(?![A-Za-z._-]{1,60}[.:;,]?(?:[\s\"']|$))"
KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{8,}")
SETTING = "setting"
# Of each, what the first group holds is the secret.
RULES = {
    "bearer token": re.compile(
        r"(?i)\bbearer(?:[ \t+]|%20){1,4}"
        r"((?=[a-z._~+/=-]{0,40}\d)[a-z0-9._~+/=-]{4,}|[a-z0-9._~+/=-]{8,})"
    ),
    "basic authentication": re.compile(
        r"(?i)\bbasic[ \t]{1,4}((?=[a-z+/]{0,40}[\d=])[a-z0-9+/=]{4,}|[a-z0-9+/=]{12,})"
    ),
    "digest authentication": re.compile(r"(?i)\bdigest[ \t]{1,4}(\w{1,20}=[^\r\n]{4,})"),
    "authorization": re.compile(
        rf"(?i)authorization(?:{IS}[\"']?|[\"'],[ \t]{{0,4}}b?[\"'])"
        r"(?:[\w-]{1,20}(?:[ \t]|%20){1,4})?([^\s\"',]{4,})"
    ),
    "cookies": re.compile(  # all behind the first one
        rf"(?i)cookie{IS}[\"']?[^\s\"';=]{{1,100}}=[^\s\"';]{{0,500}};[ \t]{{0,4}}"
        r"([^\r\n\"']{4,})"
    ),
    "cookie": re.compile(rf"(?i)cookie{IS}[\"']?([^\s\"';=]{{1,100}}=[^\s\"';]{{4,}})"),
    "password in a URL": re.compile(  # with `/` in it only where no port may be meant
        r"://[^/\s:@\"']{0,300}:((?:[^/\s\"']{1,300}|(?!\d{1,5}/)[^@\s\"']{1,300}))@"
    ),
    "token in a URL": re.compile(r"://(?=[^/\s:@\"'\d]{0,300}\d)([^/\s:@\"']{12,300})@"),
    "signed URL": re.compile(
        r"(?i)[?&](?:sig|signature|hmac|x-(?:amz|goog)-(?:signature|security-token))"
        r"=([^&\s\"'#]{8,})"
    ),
    "key in an address": re.compile(  # of a feed, say, that is for one person
        r"(?i)[?&](?:(?:key|auth)=|[\w.%-]{1,40}=(?=[a-z_-]{0,40}\d)(?=[\d_-]{0,40}[a-z])(?=[\w-]{20}))"
        r"([^&\s\"'#]{6,})"
    ),
    "private calendar": re.compile(
        r"(?i)/(?:private-)?((?=[a-z_%~+=-]{0,40}\d)[\w%~+=-]{16,200})"
        r"(?=(?:/[\w%.~@+=-]{0,100}){0,3}\.(?:ics|ical|rss|atom)\b)"
    ),
    "published calendar": re.compile(
        r"(?i)(?:webcals?://[^/\s\"'<>]{1,200}|icloud\.com/published)/([^\s\"'<>]{8,500})"
    ),
    "signature": re.compile(r"(?i)\bsignature=[\"']?([a-z0-9+/=%_-]{16,})"),
    "password of a command": re.compile(
        r"(?:\s-u|--user)[ \t=]{0,4}[\"']?[^\s:\"']{1,100}:([^\s\"']{1,200})"
    ),
    "password of a program": re.compile(
        r"\b(?:sshpass\b[^\n]{0,100}?[\s\"']-p[\s\"',]{0,4}"
        r"|(?:mysql|mariadb)\w{0,20}\b[^\n]{0,100}?[\s\"']-p"
        r"|redis-cli\b[^\n]{0,100}?[\s\"']-a[\s\"',]{1,4})([^\s\"',]{1,200})"
    ),
    "option": re.compile(
        rf"(?i)(?<![\w-])--?[\w-]{{0,40}}?{NAME}[\"']?(?:[ \t]{{1,4}}|,[ \t]{{0,4}})"
        rf"[\"']?{BARE}(?!-)([^\s\"',]{{4,}})"
    ),
    "netrc": re.compile(r"\blogin\s{1,9}\S{1,100}\s{1,9}password\s{1,9}(\S{1,200})"),
    "webhook": re.compile(
        r"(?:hooks\.slack\.com/\w{1,20}|discord(?:app)?\.com/api/webhooks)/([\w/-]{8,})"
    ),
    "API key": re.compile(
        r"(?<![A-Za-z0-9])((?:sk-|pk-|[spr]k_(?:live|test)_|rk_|whsec_|hf_(?!hub_|api_|transfer)"
        r"|gh[opsur]_|github_pat_|gl(?:pat|dt|rt|ft|soat|ptt|agent|cbt|imt|oas|ffct)-|xox[a-z]-"
        r"|xoxe\.|xapp-|npm_|pypi-|dop_v1_|shp[a-z]{2}_|ya29\.|SG\.|GOCSPX-|gsk_|xai-|pplx-|nvapi-"
        r"|r8_|lin_api_|ntn_|figd_|tskey-|rubygems_|dckr_pat_|PMAK-|NRAK-|sq0[a-z]{3}-|hv[bsr]\."
        r"|glsa_|glc_|ATATT3|AGE-SECRET-KEY-1|do[or]_v1_|pscale_(?:tkn|pw|oauth)_|sntr[yi][su]_"
        r"|GR1348941|dp\.(?:pt|st|ct|sa|scim|audit)\.|CFPAT-|xkeysib-|lin_oauth_|LTAI5t)[\w.-]{8,}"
        r"|A(?:[KS]|BI|CC)IA[0-9A-Z]{16}|AIza[\w-]{30,}|dapi[0-9a-f]{32}|\d{8,10}:AA[\w-]{30,})"
    ),
    "API key of more digits": re.compile(  # the prefix alone could begin a name
        r"(?<![A-Za-z0-9])((?:sbp_|sb_secret_|fo1_|fm[12]_|rnd_|secret_|sl\.|key-|ATBB|HRKU-|EAA|ops_"
        r"|tfp_|sgp_|nfp_|pul-|tvly-|jina_|duffel_|shippo_|pat-)(?=[\w.-]{0,40}\d)[\w-]{20,}"
        r"|SK[0-9a-f]{32}(?![0-9a-f])|[A-Za-z0-9]{14}\.atlasv1\.[\w-]{20,}"
        r"|[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40})"
    ),
    "PuTTY key": re.compile(
        r"Private-Lines:[ \t]\d{1,4}\s{1,4}((?:[A-Za-z0-9+/=]{1,80}\s{0,2}){1,400}+)"
    ),
    "login of a registry": re.compile(
        r"(?:\\?[\"']auth\\?[\"']\s{0,4}:\s{0,4}\\?[\"']|\b_auth[ \t]{0,4}=[ \t]{0,4}[\"']?)"
        r"([A-Za-z0-9+/=]{8,})"
    ),
    "session": re.compile(
        r"(?i)\b(?:(?:php|j|asp\.net_)?sess(?:ion)?id|connect\.sid)"
        rf"{IS}[\"']?(?=[\w%.-]{{0,80}}\d)([\w%.:+/=-]{{8,}})"
    ),
    "JSON web token": re.compile(r"(?<![\w-])(eyJ[\w-]{8,}+(?:\.[\w-]*+){2,4})"),
    "assignment": re.compile(
        rf"(?m)^[ \t]{{0,20}}(?:export[ \t])?(?=[A-Z0-9_]{{3,140}}[ \t]{{0,4}}=)[A-Z0-9_]{{0,60}}?"
        rf"(?i:{NAME})[A-Z0-9_]{{0,40}}[ \t]{{0,4}}=[ \t]{{0,4}}[\"']?{BARE}([^\s\"'#]{{4,}})"
    ),
    "named secret": re.compile(
        rf"(?i){NAME}(?:[_.-]\w{{1,30}})?{IS}[\[\s]{{0,8}}\\?\"((?:[^\"\\\n]|\\[^\"\n]){{4,}}+)"
    ),
    "quoted secret": re.compile(
        rf"(?i){NAME}(?:[_.-]\w{{1,30}})?{IS}[\[\s]{{0,8}}\\?'((?:[^'\\\n]|\\[^'\n]){{4,}}+)"
    ),
    "element": re.compile(rf"(?i)<[\w:.-]{{0,40}}?{NAME}(?:\s[^<>\n]{{0,100}})?>([^<]{{4,500}})</"),
    "pair": re.compile(  # ("X-Api-Key", "..."), as programs print headers
        rf"(?i){NAME}\\?[\"'],[ \t]{{0,4}}b?\\?[\"']{NO_PROSE}((?:[^\"'\\\n]){{4,}}+)"
    ),
    "name and value": re.compile(  # as Kubernetes, Docker and XML have it
        rf"(?i)\b(?:name|key)\\?[\"']?\s{{0,4}}[:=]\s{{0,4}}\\?[\"']?[\w.-]{{0,60}}?{NAME}\\?[\"']?,?"
        r"\s{1,40}\\?[\"']?value\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"']?([^\s\"',}]{4,})"
    ),
    "block": re.compile(  # YAML's `password: |`
        rf"(?i){NAME}{IS}[|>][+-]?\d?[ \t]{{0,9}}\r?\n((?:[ \t]{{1,40}}[^\n]{{1,500}}\n?){{1,50}}+)"
    ),
    "next line": re.compile(
        rf"(?i){NAME}s?[\"']?:[ \t]{{0,9}}\r?\n[ \t]{{0,40}}(?:-[ \t])?[\"']?{NO_PROSE}"
        r"(?=[^\s\"':]{0,100}[^\s\"':a-z])([^\s\"']{4,200}?)[\"']?[ \t]{0,9}(?![^\n\r])"
    ),
    SETTING: re.compile(rf"(?i){NAME}{IS}{BARE}([^\s\"'#&;,)][^\s\"'&;,)]{{3,}})"),
}
A_NAME = re.compile(rf"(?i){NAME}")
BY_NAME = frozenset(rule for rule, pattern in RULES.items() if NAME in pattern.pattern)
# A line that is nothing but a setting: all of its value, which may be several words.
LINE = re.compile(
    rf"(?im)^[ \t+*-]{{0,20}}(?:export[ \t])?[\w.-]{{0,60}}?{NAME}{IS}{BARE}"
    r"([^\s\"'#(][^\n\"'(]{2,200})$"
)
# Words, names of a program, and short numbers stand in many places with another meaning.
PLAIN = re.compile(r"[A-Za-z]{1,20}(?:[._][A-Za-z]{1,20}){0,8}[.;:]?|\d{1,8}")
# "token: cannot be read" tells of a token; "password: swordfish" tells it.
TOLD_OF = re.compile(r"(?i)(?:token|keys?|credentials?|pass):[ \t]+$")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b")
# Reserved for examples (RFC 2606), and what is scrubbed already.
NOBODY = re.compile(r"@(?:.+\.)?(?:example\.\w+|\w+\.(?:invalid|example|test))$|^x[x.+-]*@x")
PERSONAL_FOLDER = re.compile(r"/(?:home|Users)/([^/\s\"'<>:]+)")
NO_NAMES = frozenset({"root", "user", "users", "localhost", "host"})
NAME_LEAST = 3  # characters of a person's or a machine's name
TELLING = re.compile(
    rf"(?i)(?:.*[_. -])?(?:{NAME}|authorization|cookies?|bearer|jwt)(?:[_-](?:value|hash|pem))?"
)
KEY_CHARACTERS = 100  # of a key, its last ones, that say what stands under it


_known: list[str] = []  # texts that are secrets in this process, the longest first


def remember(secret: str) -> None:
    """Take this very text for a secret from now on, and each of its lines."""
    lines = [line for line in secret.splitlines() if len(line) >= LINE_LEAST]
    texts = {text for text in (secret, secret.strip(), *lines) if len(text) >= LEAST}
    _known[:] = sorted({*_known, *texts}, key=len, reverse=True)


def any_known() -> bool:
    """Whether any secret is remembered."""
    return bool(_known)


def without_known(value: Any) -> Any:
    """Return JSON-like data with `REDACTED` in the places of secrets that are remembered here."""
    if not _known:
        return value
    if isinstance(value, str):
        for text in _known:
            value = value.replace(text, REDACTED)
        return value
    if isinstance(value, Mapping):
        return {without_known(key): without_known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_known(item) for item in value]
    return value


def telling(key: str) -> bool:
    """Whether all that stands under this key is a secret: `password`, `clientSecret`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key[-KEY_CHARACTERS:])
    return TELLING.fullmatch(words) is not None


def secret_places(value: Mapping[Any, Any] | Sequence[Any]) -> set[Any]:
    """Return the keys, or the positions in a list, that hold a secret because of what names them.

    A telling key; the `value` beside a telling `name`; the second of a pair, as headers are; what
    stands behind an option such as `--password`.
    """
    if isinstance(value, Mapping):
        places = {key for key in value if telling(_word(key))}
        if any(telling(_word(value.get(key))) for key in ("name", "key")):
            places.add("value")
        return places
    if len(value) == 2 and telling(_word(value[0])):
        return {1}
    return {
        at + 1
        for at, item in enumerate(value[:-1])
        if (word := _word(item)).startswith("-") and telling(word.lstrip("-"))
    }


def _word(value: Any) -> str:
    """Return a key or an item as text; what is no text names nothing."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str) else ""


def hide(text: str) -> str:
    """Return the text with `REDACTED` in the place of each secret."""
    text = KEY_BLOCK.sub(_hidden, without_known(text))
    named = A_NAME.search(text) is not None  # most texts have none: it halves the time
    if named:
        text = LINE.sub(_hidden_setting, text)
    for rule, pattern in RULES.items():
        if rule in BY_NAME and not named:
            continue
        text = pattern.sub(_hidden_setting if rule == SETTING else _hidden, text)
    return text


def hidden_word(word: str) -> str:
    """Return a short text as `hide` does, for such as come again and again: in each log line."""
    return _hidden_word(word, len(_known))


@lru_cache(256)
def _hidden_word(word: str, _known_texts: int) -> str:
    """Return what `hide` does while so many texts are remembered; they only ever become more.

    A cache that `remember` emptied could get an answer from before it, of another thread.
    """
    return hide(word)


def put(match: re.Match[str], instead: str) -> str:
    """Return what a rule matched, with `instead` in the place of the secret in it."""
    start, end = match.start(1) - match.start(), match.end(1) - match.start()
    return match[0][:start] + instead + match[0][end:]


def _hidden(match: re.Match[str]) -> str:
    # It may be hidden before, by this rule or another.
    return match[0] if match[1].startswith(REDACTED) else put(match, REDACTED)


def _hidden_setting(match: re.Match[str]) -> str:
    head = match[0][: match.start(1) - match.start()]
    if TOLD_OF.search(head) and PLAIN.fullmatch(match[1].split(maxsplit=1)[0]):
        return match[0]
    return _hidden(match)
