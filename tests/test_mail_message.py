"""What a mail says, and what one that means harm does not do."""

import base64
import time
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.tools.mail import MESSAGE_BYTES
from agentd.tools.mail_message import TEXT_CHARACTERS, key_of, read_message, without_tags

PLAIN = b"""\
From: =?utf-8?q?Ada_L=C3=B6velace?= <ada@example.org>
To: Grace <grace@example.org>, bob@example.org
Subject: =?utf-8?b?R3LDvMOfZQ==?= from Paris
Date: Sat, 28 Nov 2026 09:00:00 +0100
Message-ID: <1@example.org>

Dear Grace,

see you on Monday.
"""
KEYS = {"from", "to", "subject", "date", "text", "attachments", "key"}
FAST_S = 3.0  # on a machine with others on it; the attacks below would take minutes


def test_a_mail_says_who_when_what() -> None:
    """Encoded words are what they mean, a date is ISO 8601, a text is its lines."""
    told = read_message(PLAIN)
    assert told == {
        "from": "Ada Lövelace <ada@example.org>",
        "to": "Grace <grace@example.org>, bob@example.org",
        "subject": "Grüße from Paris",
        "date": "2026-11-28T09:00:00+01:00",
        "text": "Dear Grace,\n\nsee you on Monday.",
        "attachments": [],
        "key": key_of(b"message-id: <1@example.org>\r\n\r\nanother"),
    }
    assert read_message(PLAIN.replace(b"\n", b"\r\n")) == told


def test_the_text_part_is_taken_and_attachments_are_names() -> None:
    """Of both forms the plain one; nothing that is attached is opened, whatever it is called."""
    mail = EmailMessage()
    mail["Subject"] = "Invoice"
    mail.set_content("The plain one, with ümlaut.")
    mail.add_alternative("<p>The <b>other</b> one</p>", subtype="html")
    mail.add_attachment(b"PK\3\4bomb", maintype="application", subtype="zip", filename="../a\t.zip")
    mail.add_attachment("text of an attachment", filename="nöte.txt")
    mail.add_attachment(EmailMessage())
    told = read_message(bytes(mail))
    assert told["text"] == "The plain one, with ümlaut."
    assert told["attachments"] == ["../a .zip", "nöte.txt", "message/rfc822"]


def test_html_is_reduced_to_what_is_shown() -> None:
    """Where there is no plain text; what a page hides is left out, lines stay lines."""
    page = (
        "<html><head><title>no</title><style>p { color: red }</style></head><body>"
        '<div style="display: NONE">tell nobody</div><span hidden>nor this</span>'
        "<p>Dear&nbsp;<b>Ada</b>,</p><!-- not <b>this</b> --><p>1 &lt; 2<br>and 2 < 3</p>"
        "<script>if (a<b) alert('</p>')</script><table><tr><td>x<td>y</table></body>"
    )
    mail = EmailMessage()
    mail.set_content(page, subtype="html", charset="utf-8", cte="quoted-printable")
    told = read_message(bytes(mail))
    assert told["text"] == "Dear Ada,\n\n1 < 2\nand 2 < 3\n\nx y"


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("iso-8859-1", "cp1252"), ("koi8-r", "koi8-r"), ("x-unknown", "utf-8"), ("utf-7", "utf-8")],
)
def test_texts_are_read_in_their_encoding(charset: str, codec: str) -> None:
    """One that nobody knows is taken for UTF-8, and none runs a codec that is no encoding."""
    text = {"cp1252": "größer", "koi8-r": "привет", "utf-8": "+ADw-größer"}[codec]
    head = f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: base64\n\n"
    assert read_message(head.encode() + base64.b64encode(text.encode(codec)))["text"] == text


@pytest.mark.parametrize("cut", range(0, 900, 37))
def test_a_mail_may_be_cut_off_anywhere(cut: int) -> None:
    """The fetcher gets the beginning of a large one."""
    mail = EmailMessage()
    mail["From"] = "Ada <ada@example.org>"
    mail["Subject"] = "Grüße " * 10
    mail.set_content("ä" * 100)
    mail.add_attachment(b"x" * 200, maintype="image", subtype="png", filename="a.png")
    told = read_message(bytes(mail)[:cut])
    assert set(told) == KEYS


def controls(text: str) -> bool:
    return any(not (c.isprintable() or c == "\n") for c in text)


HOSTILE: dict[str, bytes] = {
    "control characters in encoded words": b"Subject: =?utf-8?q?a=0D=0AFrom:_b=1B[2J=E2=80=AEc?=\n"
    b"From: =?utf-8?q?=22Bank=22_=3Cbank=40example.org=3E=00?= <evil@example.com>\n"
    b"\nx\x1b[2J\x00\xe2\x80\xae",
    "nested comments": b"From: " + b"(" * 50_000 + b"\n\n",
    "a huge header": b"Subject: " + b"=?utf-8?q?a" * 20_000 + b"\n\nx",
    "many headers": b"X: y\n" * 50_000 + b"\nx",
    "folded without end": b"Subject: a\n" + b" b\n" * 80_000,
    "bad base64": b"Subject: =?utf-8?b?!!!?=\nContent-Transfer-Encoding: base64\n\n\xff!!=",
    "bad dates": b"Date: 99 Foo 999999999999 99:99:99 +99999\n\nx",
    "no charset": b"Content-Type: text/plain; charset==?x?=\n\nx",
    "odd file names": b"Content-Type: a/b; name*0*=x'y'%ff; name*999999999999=z; name*a=q\n\nx",
    "parts of parts": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3_000)
    ),
    "mails of mails": b"Content-Type: message/rfc822\n\n" * 8_000,
    "parts that are many": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 40_000,
    "the same boundary": b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" * 4_000,
    "an empty boundary": b'Content-Type: multipart/mixed; boundary=""\n\n--\n\nx\n----\n',
    "lines of a lone byte": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"-\n" * 100_000,
    "tags without end": b"Content-Type: text/html\n\n" + b"<" * 100_000 + b"<a" * 70_000,
    "styles without end": b"Content-Type: text/html\n\n" + b"<style>x" * 30_000,
    "comments without end": b"Content-Type: text/html\n\n" + b"<!--" * 60_000,
    "entities": b"Content-Type: text/html\n\n" + b"&#x110000;&#0;&#27;&amp" * 10_000,
    "uuencoded": b"Content-Transfer-Encoding: x-uuencode\n\nbegin 644 x\n" + b"M" * 100_000,
    "binary": bytes(range(256)) * 1_000,
    "nothing": b"",
    "newlines": b"\n" * 250_000,
    "returns": b"\r" * 250_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_mail_is_read_and_bounded(name: str) -> None:
    """In time, in size, and without what could drive a terminal or forge a line."""
    began = time.process_time()
    told: dict[str, Any] = read_message(HOSTILE[name])
    assert time.process_time() - began < FAST_S
    assert set(told) == KEYS | ({"problem"} if name == "nested comments" else set())
    texts = [told["from"], told["to"], told["subject"], told["date"], *told["attachments"]]
    assert not any(controls(text) or "\n" in text for text in texts)
    assert not controls(told["text"]) and len(told["text"]) < TEXT_CHARACTERS + 40
    assert all(len(text) < 2_500 for text in texts) and len(told["attachments"]) <= 11


def test_a_name_looks_like_no_address() -> None:
    """The address behind a name is the one that counts."""
    told = read_message(HOSTILE["control characters in encoded words"])
    assert told["from"] == "Bank bank@example.org <evil@example.com>"
    assert told["subject"] == "a From: b [2J c"


def test_what_cannot_be_read_says_so() -> None:
    """One mail that the library gives up over is an entry all the same."""
    told = read_message(HOSTILE["nested comments"])
    assert told["problem"] == "cannot be read: RecursionError" or told["from"] == ""


@given(st.binary(max_size=2_000))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_mail(data: bytes) -> None:
    """Whatever comes, there is an entry; what it says of itself is printable."""
    head = b"Content-Type: multipart/mixed; boundary=b\nFrom: a@b\n\n--b\n"
    for mail in (data, head + data, b"Content-Type: text/html\n\n" + data):
        told = read_message(mail)
        assert set(told) >= KEYS and not controls(told["subject"] + told["from"] + told["text"])


@given(st.text(alphabet="<>/!-&;a pstylehidden=\"' \n", max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_is_html(text: str) -> None:
    """No more comes out than went in, but for line breaks."""
    assert len(without_tags(text).replace("\n", "").replace(" ", "")) <= len(text)


def test_more_than_the_bound_is_not_looked_at() -> None:
    """What is behind it may be anything."""
    mail = b"Subject: a\n\n" + b"x" * MESSAGE_BYTES
    assert read_message(mail + b"more") == read_message(mail)
