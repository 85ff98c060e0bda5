"""What grows with the model's window: what of a text it shows, and a prompt that fills it."""

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from agentd.context import Context, LogEvent, parse, render
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import make_tiny

from .scaling import Growth, Measured, least

SIZES = (4_096, 16_384, 65_536, 131_072)
QUICK = SIZES[:2]
LINE = "def main() -> None: print('hello')\n"
NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
OF_EVENT = 512  # tokens; as many events as fill the window


def measure(quick: bool) -> Iterator[Growth]:
    """Yield each figure with its values."""
    found = Measured("window")
    with tempfile.TemporaryDirectory(prefix="agentd-growth-") as folder:
        make_tiny(Path(folder), window=max(SIZES))
        language = ModelLanguage(Path(folder))
        for size in QUICK if quick else SIZES:
            _at(size, language, found)
    yield from found.rows()


def _at(size: int, language: ModelLanguage, found: Measured) -> None:
    def count(text: str, _within: int = 0) -> int:
        return len(language.encode(text))

    each = _event(OF_EVENT // count(LINE))
    log = [each] * (size // count(render(each)))
    text = "".join(map(render, log))
    long = _event(2 * size // count(LINE))
    nested = LogEvent("read_many", NOW, {"files": _nested(long.payload, size)}, False)
    messages = [{"role": "system", "content": LINE}, {"role": "user", "content": text}]
    works = {
        "a text of twice its size is cut": lambda: _context(size, count).cut(long, size // 4),
        "many texts in lists are cut": lambda: _context(size, count).cut(nested, size // 4),
        "a log that fills it is put together": lambda: _filled(size, log),
        "that log is read back": lambda: parse(text),
        "its tokens are counted": lambda: count(text),
        "its prompt is rendered": lambda: language.encode_chat(messages, limit=None),
    }
    for name, work in works.items():
        found.add(size, name, "ms", least(work) * 1000)


def _context(size: int, count: Callable[[str, int], int]) -> Context:
    return Context(count, fixed=0, window=size, share=1.0, reserve=0)


def _filled(size: int, log: list[LogEvent]) -> str:
    context = Context(
        lambda text, _within: len(text), fixed=0, window=10 * size * len(LINE), share=1.0, reserve=0
    )
    for event in log:
        context.add(event, 1)
    return context.text


def _event(lines: int) -> LogEvent:
    return LogEvent("read_file", NOW, {"path": "src/main.py", "text": LINE * lines}, False)


def _nested(payload: object, size: int) -> list[object]:
    """Return as much as `payload` is, in lists of lists with short texts."""
    assert isinstance(payload, dict)
    texts = [LINE] * (len(payload["text"]) // len(LINE))
    return [[{"path": f"src/{n}.py", "lines": texts[n : n + 8]}] for n in range(0, len(texts), 8)]
