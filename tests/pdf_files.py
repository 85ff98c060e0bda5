"""PDF files for tests, as small as the format allows."""

import zlib
from collections.abc import Mapping, Sequence


def text(words: str, y: int = 700, size: float = 12) -> bytes:
    """The content of a page that shows these words."""
    return f"BT /F1 {size:g} Tf 50 {y} Td ({words}) Tj ET\n".encode("latin-1")


def pdf(pages: Sequence[bytes], title: str = "", forms: Mapping[str, bytes] | None = None) -> bytes:
    """A file with these pages, each given by its content; `forms` are what `/NAME Do` draws."""
    forms = forms or {}
    named = " ".join(f"/{name} {10 + number} 0 R" for number, name in enumerate(forms)).encode()
    resources = b"/Resources << /Font << /F1 4 0 R >> /XObject << %s >> >>" % named
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        3: b"<< /Title (%s) >>" % title.encode("latin-1"),
        4: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 600 800] " + resources
    for number, content in enumerate(forms.values()):
        objects[10 + number] = _stream(form, content)
    first = 10 + len(forms)
    kids = [first + 2 * number + 1 for number in range(len(pages))]
    for content, kid in zip(pages, kids, strict=True):
        objects[kid - 1] = _stream(b"", content)
        own = b"/MediaBox [0 0 600 800] /Contents %d 0 R " % (kid - 1) + resources
        objects[kid] = b"<< /Type /Page /Parent 2 0 R %s >>" % own
    listed = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[2] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (listed, len(kids))
    return _file(objects)


def _stream(more: bytes, content: bytes) -> bytes:
    packed = zlib.compress(content)
    head = b"<< /Length %d /Filter /FlateDecode %s >>" % (len(packed), more)
    return head + b"\nstream\n" + packed + b"\nendstream"


def _file(objects: Mapping[int, bytes]) -> bytes:
    data, places = b"%PDF-1.7\n", dict[int, int]()
    for number, content in sorted(objects.items()):
        places[number] = len(data)
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = [
        b"%010d 00000 n \n" % places[n] if n in places else b"0000000000 65535 f \n"
        for n in range(max(objects) + 1)
    ]
    end = b"trailer << /Size %d /Root 1 0 R /Info 3 0 R >>\nstartxref\n%d\n%%%%EOF"
    head = b"xref\n0 %d\n" % len(table)
    return data + head + b"".join(table) + end % (len(table), len(data))
