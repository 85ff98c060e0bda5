"""ReadTasks: what is open in notes, by its form."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused
from agentd.tools import note_files, open_tasks
from agentd.tools.open_tasks import tasks_in
from agentd.tools.toolbox import Toolbox

NOTE = """# Garden
- [ ] buy seeds
- [x] dig
* [ ] **ask** Ben about the fence?
TODO: water the plants
Some text. TODO call Ada
Should we plant roses, or tulips?
<!-- TODO rewrite this -->
```
x = 1 ? TODO
```
> Who said that?
    indented?
see https://x.org/?q=1?
## Money ##
1. [ ] pay the rent
  - "What does the insurance cost?"
- [-] given up
- [ ]
A TODOLIST is no task.
?
"""


def call(folder: Path, path: str = "") -> dict[str, Any]:
    result = Toolbox(Permissions(read=(str(folder),))).call("ReadTasks", {"path": path})
    assert not result.trusted
    return dict(result.value)


def test_a_note_s_tasks_and_questions() -> None:
    """Open boxes, TODO and questions; not what is done, code, quoted, or an address."""
    found = [(t["kind"], t["text"], t["line"], t["heading"]) for t in tasks_in(NOTE)]
    assert found == [
        ("task", "buy seeds", 2, "Garden"),
        ("question", "ask Ben about the fence?", 4, "Garden"),
        ("task", "water the plants", 5, "Garden"),
        ("task", "call Ada", 6, "Garden"),
        ("question", "Should we plant roses, or tulips?", 7, "Garden"),
        ("task", "rewrite this", 8, "Garden"),
        ("task", "pay the rent", 16, "Money"),
        ("question", '"What does the insurance cost?"', 17, "Money"),
    ]


def test_a_folder_s_tasks_come_before_its_questions(tmp_path: Path) -> None:
    """Of notes alone, in subfolders too; what cannot be read is counted, nothing else is opened."""
    (tmp_path / "a.md").write_text("- [ ] one\nWhy?\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.TXT").write_text("TODO two\r\n")
    (tmp_path / "deep" / "c.md").write_bytes(b"TODO\0")
    (tmp_path / "d.py").write_text("# TODO no note\n")
    (tmp_path / ".hidden.md").write_text("TODO no\n")
    (tmp_path / "link.md").symlink_to("/etc/passwd")
    found = call(tmp_path)
    assert [(t["file"], t["text"]) for t in found["tasks"]] == [
        ("a.md", "one"), ("deep/b.TXT", "two"), ("a.md", "Why?")
    ]  # fmt: skip
    assert (found["files"], found["skipped"]) == (2, 2) and "more" not in found
    assert [t["text"] for t in call(tmp_path, "a.md")["tasks"]] == ["one", "Why?"]
    with pytest.raises(PermissionRefused):
        call(tmp_path, "/etc")


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tasks, in files, and in the length of each."""
    (tmp_path / "a.md").write_text("".join(f"TODO {n} {'x' * 500}\n" for n in range(130)))
    found = call(tmp_path)
    assert (len(found["tasks"]), found["more"]) == (100, 30)
    assert max(len(task["text"]) for task in found["tasks"]) == open_tasks.TEXT_CHARACTERS_MAX
    monkeypatch.setattr(note_files, "SEARCH_FILES", 1)
    (tmp_path / "b.md").write_text("TODO\n")
    assert call(tmp_path)["skipped"] == 1


def test_a_line_of_a_megabyte_takes_no_time() -> None:
    """Whoever wrote a note cannot make it cost more than its size."""
    begun = time.process_time()
    lines = ["# " + end * 400_000 + "x" for end in ("#", " ", "# ")]
    assert [one["text"] for one in tasks_in("\n".join([*lines, "- [ ] one"]))] == ["one"]
    assert time.process_time() - begun < 5


def test_any_text_is_a_note() -> None:
    """Whatever stands there, its tasks are printable lines of a bounded length."""
    draw = random.Random(5)
    for _ in range(300):
        parts = draw.choices(
            ["- [ ] ", "TODO", "?", "#", "```", "\n", "\t", "a b", "\x1b[2J", "\u2019"], k=60
        )
        for task in tasks_in("".join(parts)):
            assert task["text"].strip() and task["text"].isprintable()
