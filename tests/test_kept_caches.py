"""Caches of prompts, as they are kept in memory and in their file."""

from pathlib import Path

import pytest

from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from tests import tiny_models
from tests.stepped_engine import Run, call_of, chat
from tests.stepped_engine import folder as folder
from tests.stepped_engine import tiny as tiny

SAVED = 10**8  # bytes of caches that may be written down


def test_caches_are_read_again_after_a_restart(folder: Path, tmp_path: Path) -> None:
    """What one process prefilled the next one does not; the file is private; answers are equal."""
    language = ModelLanguage(folder)
    saved = tmp_path / "caches.safetensors"
    given = chat(language, "These are the instructions. " * 8, "one event\n</event>\n")
    first = Run(MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=SAVED))
    cold = first.admit(call_of(**given))
    first.until(first.over(cold))
    first.engine.save()
    assert saved.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]
    second = Run(MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=SAVED))
    assert second.engine.counters()["cache_tokens"] == first.engine.counters()["cache_tokens"]
    assert second.engine.cache_bytes() == first.engine.cache_bytes()
    warm = second.admit(call_of(**given))
    second.until(second.over(warm))
    assert warm.cached_tokens > len(cold.prompt) - 20
    assert second.tokens[warm.number] == first.tokens[cold.number]


@pytest.mark.parametrize("damage", ["cut", "garbage", "other model", "empty"])
def test_a_useless_cache_file_is_removed(
    tiny: tuple[Path, ModelLanguage], tmp_path: Path, damage: str
) -> None:
    """A damaged file, or one of another model, costs a cold start and nothing else."""
    saved = tmp_path / "caches.safetensors"
    run = Run(MlxEngine(*tiny, fast_blas=True, saved=saved, saved_bytes=SAVED))
    call = run.admit(call_of(**chat(tiny[1], "Remember this. " * 9)))
    run.until(run.over(call))
    if damage == "other model":
        run.engine._identity = "another"
    run.engine.save()
    data = saved.read_bytes()
    saved.write_bytes(
        {"cut": data[: len(data) // 2], "garbage": b"x" * 99, "empty": b""}.get(damage, data)
    )
    again = MlxEngine(*tiny, fast_blas=True, saved=saved, saved_bytes=SAVED)
    assert again.cache_bytes() == 0
    assert not saved.exists()


def test_the_cache_file_is_bounded(folder: Path, tmp_path: Path) -> None:
    """What was used last stays in it, whole paths only; whatever many prompts there were."""
    language = ModelLanguage(folder)
    saved = tmp_path / "caches.safetensors"
    limit = 150_000
    run = Run(MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=limit))
    for number in range(6):
        call = run.admit(call_of(**chat(language, f"Instructions number {number}. " * 9)))
        run.until(run.over(call))
    assert run.engine.cache_bytes() > limit, "there is more than fits"
    run.engine.save()
    assert 0 < saved.stat().st_size < limit + 50_000
    again = MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=limit)
    assert 0 < again.cache_bytes() <= limit


def test_checkpoints_of_a_long_log_are_few(tmp_path: Path) -> None:
    """A log of many events leaves its fixed part's end and its last ones, whoever prefilled it."""
    folder = tiny_models.make("qwen3_5", tmp_path)
    language = ModelLanguage(folder)
    run = Run(MlxEngine(folder, language, fast_blas=True))
    log = ""
    for turn in range(12):
        log += f'<event type="result" ts="{turn}">\n{{"line": "{turn * 7} and so on"}}\n</event>\n'
        call = run.admit(call_of(**chat(language, "Do this. " * 5, log), max_tokens=2))
        assert len(run.engine._prefill.rows[0].marks) <= 3
        run.until(run.over(call))
    nodes = run.engine._caches.nodes()
    assert sum(node.states is not None for node in nodes) <= 4
    again = run.admit(call_of(**chat(language, "Do this. " * 5, log), max_tokens=2))
    run.until(run.over(again))
    assert again.cached_tokens >= again.checkpoints[-2]
