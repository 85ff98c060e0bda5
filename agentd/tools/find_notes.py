"""FindNotes: the passages of notes that go best with a question, by its words. In the hands."""

from collections.abc import Iterator
from typing import Any

from agentd.bus.question_words import QuestionWords, share
from agentd.errors import ToolError
from agentd.events import Result
from agentd.tools.base import ToolCall, clean_line
from agentd.tools.note_files import FENCE, ITEM, NoteFiles, heading_of

FOUND_MAX = 10
PASSAGE_CHARACTERS = 300


def find_notes(call: ToolCall, path: str, words: str) -> Result:
    """Give the paragraphs and list items that hold most of the words, the best first.

    Raises:
        ToolError: there is nothing, or nothing of it can be read.
    """
    wanted, notes = QuestionWords.of(words), NoteFiles(call, path)
    holding: list[tuple[frozenset[str], dict[str, Any]]] = []
    total = 0
    for file, text in notes:
        for line, heading, passage in passages_in(text):
            total += 1
            if held := wanted.within(f"{file} {heading} {passage}"):
                where = {"file": file, "line": line, "heading": heading}
                text_of = clean_line(ITEM.sub("", passage, count=1), PASSAGE_CHARACTERS)
                holding.append((held, {**where, "text": text_of}))
    if not notes.files and notes.left():
        raise ToolError(f"{path}: there are no notes that can be read")
    counts = {stem: sum(stem in held for held, _ in holding) for stem in wanted.stems}
    weights = wanted.weights(counts, total)
    found = [{**passage, "share": share(held, weights)} for held, passage in holding]
    found.sort(key=lambda passage: passage["share"], reverse=True)
    value = {"path": notes.path, "files": notes.files, "found": found[:FOUND_MAX]}
    return Result(value | notes.left(len(found) - FOUND_MAX), trusted=False)


def passages_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Give a note's paragraphs and list items: the first line's number, the heading, the text."""
    heading, fenced, begun = "", False, 0
    lines: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        fence, title = FENCE.match(line), None if fenced else heading_of(line)
        begins = not line.strip() or fence or title is not None or ITEM.match(line)
        if begins and lines:
            yield begun, heading, " ".join(lines)
            lines = []
        if fence:
            fenced = not fenced
        elif title is not None:
            heading = title
        elif line.strip():
            begun = begun if lines else number
            lines.append(" ".join(line.split()))
