"""Doubles of the model, for tests: a tiny random-weight model folder, and an engine without MLX.

A mask makes any model answer legally, so a random one is enough wherever the words do not matter.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from agentd.model_server.calls import Advance, Call, Mask, Refused, Sampling
from agentd.model_server.protocols import Labels, Message, Prompt
from agentd.model_server.tool_calls import OWN_FORM, OfferedTool, ToolChoice
from agentd.models.gguf import write_byte_level_bpe

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 256  # ScriptedLanguage's one end token
WIDTH, HEADS, LAYERS = 32, 2, 2


def make_tiny(folder: Path, *, seed: int = 0, window: int = 2048, width: int = WIDTH) -> Path:
    """Write a llama of 2 layers with random weights and a byte-level tokenizer; return `folder`.

    Takes milliseconds and 200 KB, and needs no MLX. The same seed gives the same model.
    """
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers.pre_tokenizers import ByteLevel

    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet())]
    merges = [["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"], ["e", "r"], ['"', ":"], ['"', ","]]
    tokens += ["".join(merge) for merge in merges]
    write_byte_level_bpe(
        folder,
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        special=list(enumerate(SPECIAL)),
        bos=SPECIAL[1],
        eos=SPECIAL[2],
        chat_template=CHAT_TEMPLATE,
    )
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 2 * width,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "vocab_size": len(tokens),
        "max_position_embeddings": window,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    half, inner = width // HEADS, 2 * width
    shapes = {"model.embed_tokens.weight": (len(tokens), width), "model.norm.weight": (width,)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (half, width),
            "self_attn.v_proj": (half, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    weights = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else random.standard_normal(shape).astype(np.float32) * 0.3
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    return folder


class ScriptedLanguage:
    """A tokenizer whose tokens are bytes; it knows no grammars."""

    def __init__(self, window: int = 10_000) -> None:
        self.window = window
        self.vocabulary = END + 1
        self.end_tokens: AbstractSet[int] = frozenset({END})
        self.form = OWN_FORM
        self.sampling = Sampling()

    def encode(self, text: str) -> list[int]:
        """Return the text's bytes."""
        return list(text.encode())

    def encode_text(self, text: str, *, limit: int | None = None) -> Prompt:
        """Return the text's bytes."""
        return Prompt(self.encode(text), ())

    def encode_pairs(
        self, head: str, items: Sequence[str], *, limit: int
    ) -> tuple[list[int], list[list[int]]]:
        """Return the bytes of the head, or one end token, and those of the items."""
        return self.encode(head) or [END], [self.encode(item) for item in items]

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[OfferedTool] = (),
        *,
        limit: int | None = None,
    ) -> Prompt:
        """Return the bytes of `role: content` lines."""
        text = "".join(f"{m['role']}: {m['content']}\n" for m in messages)
        return Prompt(self.encode(text), ())

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes."""
        return bytes(token for token in tokens if token != END)

    def mask(self, schema: object) -> Mask:
        """Refuse: a scripted answer fits or does not."""
        raise Refused("a scripted engine honours no schema", code="unsupported_schema")

    def call_mask(
        self, tools: Sequence[OfferedTool], choice: ToolChoice, schema: object | None = None
    ) -> Mask:
        """Refuse, as `mask` does."""
        return self.mask(schema)

    def labelled(self, mask: Mask, schema: object, labels: Labels, *, words: bool = False) -> Mask:
        """Refuse, as `mask` does."""
        return self.mask(schema)


class ScriptedEngine:
    """Answers each call with what `answer` returns, one byte a step; an item scores its length.

    `before_step` is called with the admitted calls before every step; it may wait or raise.
    """

    def __init__(
        self,
        answer: Callable[[Call], str] = lambda call: "ok",
        *,
        slots: int = 1,
        before_step: Callable[[Sequence[Call]], None] = lambda calls: None,
    ) -> None:
        self.slots = slots
        self._answer = answer
        self._before_step = before_step
        self._rows: dict[int, tuple[Call, list[int]]] = {}
        self._failed: dict[int, int] = {}
        self.order: list[str] = []  # agents, as their calls were admitted
        self.recoveries = 0
        self.saves = 0

    def fits(self, call: Call) -> bool:
        """Whether there is a slot."""
        return len(self._rows) < self.slots

    def admit(self, call: Call) -> None:
        """Take the call in."""
        self.order.append(call.agent)
        if call.scoring is not None:
            call.scoring.scores += [[-float(len(i)) for i in items] for items in call.scoring.items]
        self._rows[call.number] = (call, list(self._answer(call).encode()))

    def step(self) -> list[Advance]:
        """Give each call its next byte."""
        self._before_step([call for call, _ in self._rows.values()])
        advances = []
        for call, rest in list(self._rows.values()):
            if not rest:
                advances.append(Advance(call, (), "stop"))
            else:
                token = rest.pop(0)
                call.completion_tokens += 1
                full = call.completion_tokens >= call.max_tokens
                finish = "length" if full and rest else None if rest else "stop"
                advances.append(Advance(call, (token,), finish))  # type: ignore[arg-type]
            if advances[-1].finish:
                del self._rows[call.number]
        return advances

    def remove(self, call: Call) -> None:
        """Forget the call."""
        self._rows.pop(call.number, None)

    def recover(self, error: Exception) -> list[Advance]:
        """Go on with the same calls; give up those that were in two failed steps."""
        self.recoveries += 1
        lost = []
        for call, _ in list(self._rows.values()):
            self._failed[call.number] = self._failed.get(call.number, 0) + 1
            if self._failed[call.number] > 1:
                lost.append(Advance(call, error=error))
                del self._rows[call.number]
        return lost

    def cache_bytes(self) -> int:
        """Return 0: there is no cache."""
        return 0

    def counters(self) -> Mapping[str, float]:
        """Return how often it recovered."""
        return {"recoveries_total": self.recoveries}

    def save(self) -> None:
        """Count."""
        self.saves += 1

    def close(self) -> None:
        """Hold nothing."""
