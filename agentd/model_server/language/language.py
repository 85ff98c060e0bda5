"""A model folder's tokenizer, chat template and grammars, without MLX and transformers.

The template's own parts are tokenised with special tokens, all else by a second tokenizer that has
none: see `template.py`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer

from agentd.llm.thoughts import left_open
from agentd.model_server.calls import Mask, Refused
from agentd.model_server.grammar.grammar import Grammars
from agentd.model_server.grammar.mask import AnswerMask
from agentd.model_server.language.call_form import answer_start, learn, takes_system
from agentd.model_server.language.markers import is_marker, renamed, without_markers
from agentd.model_server.language.model_files import (
    bad,
    chat_templates,
    read,
    read_json,
    sampling,
)
from agentd.model_server.language.plain_form import (
    explained,
    with_text_arguments,
    without_system,
)
from agentd.model_server.language.template import Piece, Template
from agentd.model_server.protocols import Labels, Message, Prompt
from agentd.model_server.tool_calls import OfferedTool, ToolChoice
from agentd.models.window import own_window, sizes_of, text_config

# Where an event of a log ends or begins. Some templates put instructions and log into one message:
# the first event's beginning is the fixed part's end.
EVENT_SEAM = re.compile(r"(?<=</event>\n)(?=.)|(?=<event type=)", re.DOTALL)
CHECKPOINT_TOKENS = 16  # between two; each costs a copy of the state of layers that cannot be cut
SLICE = 50_000  # characters that are tokenised at once to see whether a text is too long
BORDER = 256  # characters of a head's end, where an item may change its tokens
SEAM = 16  # tokens that a slice may have more than the same text within the whole


class ModelLanguage:
    """A `protocols.Language` of a model folder: its tokenizer.json, chat template and window.

    Raises:
        ConfigError: a file is missing or is not what it should be.
    """

    def __init__(self, folder: Path, *, window: int | None = None) -> None:
        self._folder = folder
        config = read_json(folder / "config.json")
        settings = read_json(folder / "tokenizer_config.json", missing={})
        self.sampling = sampling(folder)
        text = read(folder / "tokenizer.json")
        try:
            data = json.loads(text)
            self._marked = Tokenizer.from_str(text)
            self._plain = Tokenizer.from_str(json.dumps(without_markers(data)))
        except Exception as error:  # tokenizers raises bare Exception for anything wrong
            raise bad(folder / "tokenizer.json", f"is no tokenizer: {error}") from error
        for tokenizer in (self._marked, self._plain):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        sizes = sizes_of(config)
        own = own_window(sizes)
        self.window = min(window or own, own)
        tokens = self._marked.get_vocab_size(with_added_tokens=True)
        self.vocabulary = max(int(sizes.get("vocab_size") or 0), tokens)
        added = self._marked.get_added_tokens_decoder()
        self._markers = {number for number, token in added.items() if token.content.strip()}
        names = {
            key: _content(settings.get(key))
            for key in ("bos_token", "eos_token", "unk_token", "pad_token")
            if settings.get(key)
        }
        self.end_tokens: AbstractSet[int] = self._find_end_tokens(
            names.get("eos_token"), config, text_config(config)
        )
        self._never = self._find_controls(data, names)
        # As other programs score texts (lm-evaluation-harness, `prefix_token_id`).
        framed = self._marked.encode("a", add_special_tokens=True)
        self._begin = framed.ids[: framed.special_tokens_mask.index(0)]
        bos = self._marked.token_to_id(names.get("bos_token", ""))
        self._nothing = min(self.end_tokens) if bos is None else bos
        self._template = _template(folder, settings, names)
        self._takes_system = takes_system(self._template)
        self._start = answer_start(
            self._template, [added[number].content for number in self._markers]
        )
        specials = {token.content: number for number, token in added.items() if token.special}
        self.form, marks = learn(self._template, specials, self.end_tokens, self._start)
        self.grammars = Grammars(
            renamed(data),
            self.vocabulary,
            sorted(self.end_tokens),
            markers={
                number: marks.get(number, "") if token.special else token.content
                for number, token in added.items()
                if is_marker(token.content, token.special)
            },
        )

    def encode(self, text: str) -> list[int]:
        """See `Language.encode`."""
        # Unlike `encode` this gives the interpreter to other threads: 1 MB takes seconds.
        tokens: list[int] = self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if self._never.isdisjoint(tokens):
            return tokens
        return [token for token in tokens if token not in self._never]

    def encode_text(self, text: str, *, limit: int | None = None) -> Prompt:
        """See `Language.encode_text`."""
        tokens = self._encode_within(text, limit, len(self._begin), "prompt")
        return Prompt([*self._begin, *tokens], ())

    def encode_pairs(
        self, head: str, items: Sequence[str], *, limit: int
    ) -> tuple[list[int], list[list[int]]]:
        """See `Language.encode_pairs`."""
        first = [*self._begin, *self._encode_within(head, limit, 0, "heads")] or [self._nothing]
        end = head[-BORDER:]
        before = self.encode(end)
        found = []
        for item in items:
            whole = self._encode_within(end + item, limit, 0, "items")
            same = whole[: len(before)] == before
            found.append(whole[len(before) :] if same else self.encode(item))
        return first, found

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[OfferedTool] = (),
        *,
        limit: int | None = None,
    ) -> Prompt:
        """See `Language.encode_chat`.

        A log's events are tokenised one by one: a log that has grown begins with the same tokens.
        """
        if not self.form.native:
            messages, tools = explained(messages, tools), ()
        elif self.form.text_arguments:
            messages = with_text_arguments(messages)
        if not self._takes_system:
            messages = without_system(messages)
        tokens: list[int] = []
        ends = [0]

        def add(run: str) -> None:
            for part in EVENT_SEAM.split(run):
                tokens.extend(self._encode_within(part, limit, len(tokens), "messages"))
                if len(tokens) - ends[-1] >= CHECKPOINT_TOKENS:
                    ends.append(len(tokens))

        run = ""
        for part in self._split(self._answering(self._template.render(messages, tools))):
            if isinstance(part, str):
                run += part
                continue
            add(run)
            tokens.append(part)
            run = ""
        add(run)
        return Prompt(tokens, tuple(ends[1:]))

    def decode(self, tokens: Sequence[int]) -> bytes:
        """See `Language.decode`."""
        return b"".join(map(self.grammars.bytes_of, tokens))

    def mask(self, schema: object) -> Mask:
        """See `Language.mask`."""
        return self.grammars.mask(schema)

    def call_mask(
        self, tools: Sequence[OfferedTool], choice: ToolChoice, schema: object | None = None
    ) -> Mask:
        """See `Language.call_mask`."""
        return self.grammars.call_mask(self.form, tools, choice, schema)

    def labelled(self, mask: Mask, schema: object, labels: Labels, *, words: bool = False) -> Mask:
        """See `Language.labelled`."""
        assert isinstance(mask, AnswerMask)
        assert isinstance(schema, dict)
        return self.grammars.labelled(mask, schema, labels, words=words)

    def _answering(self, pieces: list[Piece]) -> list[Piece]:
        """Let a prompt end where an answer's text begins: in no thought, and in its channel."""
        end, own = pieces[-1] if pieces else ("", False)
        closing = left_open(end + self._start) if own else ""
        return [*pieces, (self._start + (f"\n{closing}\n\n" if closing else ""), True)]

    def _split(self, pieces: Iterable[Piece]) -> Iterable[str | int]:
        """Yield what was rendered as plain text and the template's own markers as tokens.

        Text on both sides of a piece's end is tokenised together, as the model learned it.
        """
        for text, own in pieces:
            if not own:
                yield text
                continue
            at = 0
            found = self._marked.encode(text, add_special_tokens=False)
            for number, (start, end) in zip(found.ids, found.offsets, strict=True):
                if number in self._markers:
                    yield text[at:start]
                    yield number
                    at = end
            yield text[at:]

    def _encode_within(self, text: str, limit: int | None, used: int, param: str) -> list[int]:
        """Tokenise, unless it is soon clear that it is too long: 8 MB take up to a minute."""
        if limit is not None:
            for at in range(0, len(text) if len(text) > SLICE else 0, SLICE):
                used += len(self.encode(text[at : at + SLICE])) - SEAM
                if used > limit:
                    break
            if used > limit:
                raise Refused(
                    f"the prompt has far more tokens than the model's window of {limit}",
                    code="context_length_exceeded",
                    param=param,
                )
        return self.encode(text) if text else []

    def _find_end_tokens(self, name: str | None, *configs: dict[str, Any]) -> set[int]:
        generation = read_json(self._folder / "generation_config.json", missing={})
        found: set[int] = set()
        for config in (*configs, generation):
            value = config.get("eos_token_id")
            found.update([value] if isinstance(value, int) else value or [])
        if name and (number := self._marked.token_to_id(name)) is not None:
            found.add(number)
        if not found:
            raise bad(self._folder / "config.json", "names no eos_token_id")
        return found

    def _find_controls(self, data: dict[str, Any], names: dict[str, str]) -> set[int]:
        """Return the tokens that no text may become.

        What a text becomes that its tokenizer does not know is one of them only where it has
        another meaning as well, as in GPT-2, whose unknown token ends a text.
        """
        model = data["model"]
        unknown = model.get("unk_id"), self._marked.token_to_id(str(model.get("unk_token")))
        controls = {self._marked.token_to_id(names[key]) for key in names if key != "unk_token"}
        added = self._marked.get_added_tokens_decoder()
        markers = {n for n, token in added.items() if is_marker(token.content, token.special)}
        return markers - ({*unknown} - controls - set(self.end_tokens))


def _template(folder: Path, settings: dict[str, Any], names: dict[str, str]) -> Template:
    source, tool_use = chat_templates(folder, settings)
    try:
        return Template(source, names, tool_use=tool_use)
    except jinja2.TemplateError as error:
        raise bad(folder / "chat_template.jinja", f"is no template: {error}") from error


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
