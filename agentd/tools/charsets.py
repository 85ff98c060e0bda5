"""Encodings of texts from the web, by the names that pages and servers use.

By the labels of the WHATWG's Encoding Standard, as far as pages use them. Not whatever codec Python
knows: some of those are no encodings, and some need a minute for a megabyte.
"""

import re

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})")
XML_ENCODING = re.compile(r"<\?xml[^>]{0,80}?encoding\s*=\s*[\"']([\w.:-]{1,40})")
HEAD_BYTES = 2_048  # in which a page says its own; the standard looks at 1,024
ENCODINGS = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1"), "cp1252"),
    **dict.fromkeys(("windows-1252", "cp1252", "us-ascii", "ascii"), "cp1252"),
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **{f"windows-125{part}": f"cp125{part}" for part in (0, 1, 3, 4, 5, 6, 7, 8)},
    **{"iso-8859-9": "cp1254", "latin2": "iso8859-2", "latin9": "iso8859-15", "cp1251": "cp1251"},
    **{"koi8-r": "koi8-r", "koi8-u": "koi8-u", "ibm866": "cp866", "macintosh": "mac-roman"},
    **{"shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "euc-jp": "euc-jp"},
    **{"euc-kr": "cp949", "ks_c_5601-1987": "cp949", "big5": "big5hkscs", "tis-620": "cp874"},
    **{"gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "windows-874": "cp874"},
    **{"utf-8": "utf-8", "utf8": "utf-8", "utf-16": "utf-16"},
    **{"utf-16le": "utf-16-le", "utf-16be": "utf-16-be"},
}
MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def charset(kind: str) -> str:
    """Return the encoding that a Content-Type names, as Python has it; "" for none that we know."""
    label = CHARSET.search(kind.lower())
    return ENCODINGS.get(label[1] if label else "", "")


def decoded(data: bytes, told: str) -> str:
    """Return a page's or a feed's text: by its mark, by what its server `told`, by its own head.

    What says nothing is UTF-8, or else what browsers take old pages for. Nothing fails.
    """
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    head = data[:HEAD_BYTES].decode("latin-1").lower()
    own = CHARSET.search(head) or XML_ENCODING.search(head)
    encoding = told or ENCODINGS.get(own[1] if own else "", "")
    if not encoding or (encoding.startswith("utf-16") and not told):  # whose head could not be read
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            # One that was cut off within a character is UTF-8 all the same.
            encoding = "utf-8" if error.end >= len(data) else "cp1252"
    return data.decode(encoding, "replace")
