"""mlx_lm by itself, in a process of its own: what a model gives without a server around it.

Reads one JSON request a line, writes one JSON answer a line.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.home import ROOT
from tests.bench.stock import level_field

MASKS = 300


class Bare:
    """The process, and what it can be asked."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.model.bare", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def pace(self, prompt: list[int], tokens: int) -> float:
        """Return the tokens a second of `stream_generate`, prefill not counted."""
        return float(self._ask({"prompt": prompt, "tokens": tokens})["pace"])

    def limit(self, prompts: list[list[int]], tokens: int, schema: object) -> float:
        """Return the tokens a second of a batch whose masks were computed beforehand.

        Prefill and the masks are not counted, nor is any text made: no server can be faster with
        this model and these answers. The prompts are cut to the length of the shortest.
        """
        found = self._ask({"prompts": prompts, "tokens": tokens, "masks_of": schema})
        return float(found["pace"])

    def mask_us(self, schema: object) -> float:
        """Return the microseconds that computing and applying one mask take here."""
        return float(self._ask({"schema": schema})["us"])

    def score_s(self, heads: Sequence[str], items: Sequence[str]) -> float:
        """Return the seconds that scoring takes with one pass for each head and item."""
        return float(self._ask({"heads": heads, "items": items})["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that runs mlx_lm by itself ended; see its error above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(folder: Path) -> None:
    """Answer until the input ends."""
    level_field()
    import mlx_lm
    from mlx_lm.sample_utils import make_sampler

    from agentd.model_server.engine.weights import forbid_wiring

    forbid_wiring()
    model, tokenizer = mlx_lm.load(str(folder))

    def pace(prompt: list[int], tokens: int) -> float:
        moments = [
            time.perf_counter()
            for _ in mlx_lm.stream_generate(
                model, tokenizer, prompt, max_tokens=tokens, sampler=make_sampler(temp=0.0)
            )
        ]
        return (len(moments) - 1) / (moments[-1] - moments[0])

    limits: dict[int, Limit] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "prompts" in request:
            rows = request["prompts"]
            if len(rows) not in limits:
                limits[len(rows)] = Limit(model, folder, rows, request["tokens"])
                limits[len(rows)].learn(request["masks_of"])
            print(json.dumps({"pace": limits[len(rows)].pace()}), flush=True)
        elif "schema" in request:
            print(json.dumps({"us": _mask_us(folder, request["schema"])}), flush=True)
        elif "heads" in request:
            seconds = _score_s(model, tokenizer, request["heads"], request["items"])
            print(json.dumps({"seconds": seconds}), flush=True)
        else:
            found = pace(request["prompt"], request["tokens"])
            print(json.dumps({"pace": found}), flush=True)


class Limit:
    """Rows of equal length in one batch, and the masks of their answers."""

    def __init__(
        self, model: Any, folder: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> None:
        self._model, self._folder, self._tokens = model, folder, tokens
        length = min(map(len, prompts))
        self._prompts = [list(prompt[:length]) for prompt in prompts]
        self._masks: list[Any] = []  # of each step, for all rows

    def learn(self, schema: object) -> None:
        """Decode once with masks that are computed as it goes, and keep them."""
        import mlx.core as mx
        import numpy as np

        from agentd.model_server.language.language import ModelLanguage

        language = ModelLanguage(self._folder)
        masks = [language.mask(schema) for _ in self._prompts]
        for mask in masks:
            mask.forced()

        def allowed(width: int) -> Any:
            rows = [_bits(mask, width) for mask in masks]
            self._masks.append(mx.array(np.stack(rows)))
            return self._masks[-1]

        cache, logits = self._prefilled()
        for _ in range(self._tokens):
            chosen: Any = mx.argmax(mx.where(allowed(logits.shape[-1]), logits, -mx.inf), axis=-1)
            for mask, token in zip(masks, chosen.tolist(), strict=True):
                mask.accept(token)
            logits = self._model(chosen[:, None], cache=cache)[:, -1]

    def pace(self) -> float:
        """Decode the same again, each step submitted before the last one's tokens are read."""
        import mlx.core as mx

        cache, logits = self._prefilled()
        began, before = 0.0, None
        for mask in self._masks:
            chosen = mx.argmax(mx.where(mask, logits, -mx.inf), axis=-1)
            logits = self._model(chosen[:, None], cache=cache)[:, -1]
            mx.async_eval(chosen, logits)  # type: ignore[no-untyped-call]
            if before is not None:
                before.tolist()
                began = began or time.perf_counter()
            before = chosen
        before.tolist()  # type: ignore[union-attr]
        steps = len(self._masks) - 1  # the first one begins the time
        return steps * len(self._prompts) / (time.perf_counter() - began)

    def _prefilled(self) -> tuple[Any, Any]:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self._model)
        logits = self._model(mx.array(self._prompts), cache=cache)[:, -1]
        mx.eval(logits)
        return cache, logits


def _score_s(model: Any, tokenizer: Any, heads: Sequence[str], items: Sequence[str]) -> float:
    import mlx.core as mx

    began = time.perf_counter()
    for head in heads:
        for item in items:
            first, second = tokenizer.encode(head), tokenizer.encode(item)
            logits = model(mx.array([first + second]))[0, len(first) - 1 : -1]
            likely = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            mx.take_along_axis(likely, mx.array(second)[:, None], axis=-1).sum().item()
    return time.perf_counter() - began


def _bits(mask: Any, size: int) -> Any:
    import numpy as np

    bits = np.unpackbits(np.frombuffer(mask.allowed(), dtype=np.uint8), bitorder="little")
    return bits[:size].view(np.bool_)


def _mask_us(folder: Path, schema: object) -> float:
    """Time a mask's bits and its product with random logits, less the bare choice of a token."""
    import mlx.core as mx

    from agentd.model_server.language.language import ModelLanguage

    language = ModelLanguage(folder)
    mask = language.mask(schema)
    mask.forced()
    rows = mx.random.normal((MASKS, language.vocabulary))
    mx.eval(rows)
    masked = plain = 0.0
    for row in rows:
        mx.eval(row)
        began = time.perf_counter()
        mx.argmax(row).item()
        plain += time.perf_counter() - began
        began = time.perf_counter()
        allowed = mx.array(_bits(mask, row.size))
        token = mx.argmax(mx.where(allowed, row, -mx.inf)).item()
        mask.accept(int(token))  # type: ignore[arg-type]
        masked += time.perf_counter() - began
        if mask.finished:
            mask = language.mask(schema)
            mask.forced()
    return (masked - plain) / MASKS * 1e6


if __name__ == "__main__":
    main(Path(sys.argv[1]))
