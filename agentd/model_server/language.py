"""A model folder's tokenizer, chat template and grammars, without MLX and transformers.

What a person, a file or a web page says can look like the template's own markers, such as
`<|im_end|>`. Here it cannot become one: the template is rendered with placeholders, its own parts
are tokenised with special tokens, and the contents by a second tokenizer that has none.
"""

import json
import secrets
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer

from agentd.errors import ConfigError
from agentd.model_server.calls import Mask, Refused
from agentd.model_server.engine import Message
from agentd.model_server.grammar import Grammars

DEFAULT_WINDOW = 4096  # tokens, where config.json says nothing


class ModelLanguage:
    """Reads tokenizer.json, the chat template and the window of a model folder.

    Raises:
        ConfigError: a file is missing or is not what it should be.
    """

    def __init__(self, folder: Path, *, window: int | None = None) -> None:
        self._folder = folder
        config = _read_json(folder / "config.json")
        settings = _read_json(folder / "tokenizer_config.json", missing={})
        text = _read(folder / "tokenizer.json")
        try:
            data = json.loads(text)
            self._marked = Tokenizer.from_str(text)
            self._plain = Tokenizer.from_str(json.dumps(_without_special(data)))
        except Exception as error:  # tokenizers raises bare Exception for anything wrong
            raise _bad(folder / "tokenizer.json", f"is no tokenizer: {error}") from error
        for tokenizer in (self._marked, self._plain):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        nested = config.get("text_config")
        text_config = nested if isinstance(nested, dict) else {}
        limits = [config.get("max_position_embeddings"), text_config.get("max_position_embeddings")]
        own_window = next((int(limit) for limit in limits if limit), DEFAULT_WINDOW)
        self.window = min(window or own_window, own_window)
        self.vocabulary = int(
            config.get("vocab_size")
            or text_config.get("vocab_size")
            or self._marked.get_vocab_size(with_added_tokens=True)
        )
        self.vocabulary = max(self.vocabulary, self._marked.get_vocab_size(with_added_tokens=True))
        self._special = {
            number
            for number, token in self._marked.get_added_tokens_decoder().items()
            if token.special
        }
        self._names = {
            key: _content(settings.get(key))
            for key in ("bos_token", "eos_token", "unk_token", "pad_token")
            if settings.get(key)
        }
        self.end_tokens: AbstractSet[int] = self._find_end_tokens(config, text_config)
        self._template = _compile_template(folder, settings)
        self.grammars = Grammars(_renamed_special(data), self.vocabulary, sorted(self.end_tokens))

    def encode(self, text: str) -> list[int]:
        """Tokenise plain text: what looks like a special token is text."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokenise a conversation through the chat template, up to where the answer begins.

        Raises:
            Refused: the template does not take these messages.
        """
        # Random, so that no content can contain it; private use, so that no template changes it.
        nonce = secrets.token_hex(8)
        marks = [f"\ue000{nonce}.{number}\ue001" for number in range(len(messages))]
        hidden = [
            {**message, "content": mark} for message, mark in zip(messages, marks, strict=True)
        ]
        try:
            rendered = self._template.render(
                messages=hidden, add_generation_prompt=True, enable_thinking=False, **self._names
            )
        except jinja2.TemplateError as error:
            raise Refused(
                f"the model's chat template refuses: {error}", param="messages"
            ) from error
        tokens: list[int] = []
        while rendered:
            places = [(at, n) for n, mark in enumerate(marks) if (at := rendered.find(mark)) >= 0]
            at, number = min(places, default=(len(rendered), -1))
            if at:
                tokens += self._marked.encode(rendered[:at], add_special_tokens=False).ids
            if number < 0:
                break
            tokens += self.encode(messages[number]["content"])
            rendered = rendered[at + len(marks[number]) :]
        return tokens

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of generated tokens; special tokens have none."""
        kept = [token for token in tokens if token not in self._special]
        return bytes(self.grammars.tokenizer.decode_bytes(kept))

    def mask(self, schema: object) -> Mask:
        """Return a fresh mask for one answer. Raises Refused."""
        return self.grammars.mask(schema)

    def _find_end_tokens(self, *configs: dict[str, Any]) -> set[int]:
        generation = _read_json(self._folder / "generation_config.json", missing={})
        found: set[int] = set()
        for config in (*configs, generation):
            value = config.get("eos_token_id")
            found.update([value] if isinstance(value, int) else value or [])
        name = self._names.get("eos_token")
        if name and (number := self._marked.token_to_id(name)) is not None:
            found.add(number)
        if not found:
            raise _bad(self._folder / "config.json", "names no eos_token_id")
        return found


def _without_special(data: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer that knows no markers: only added tokens of pure whitespace stay."""
    added = [token for token in data.get("added_tokens") or [] if not token["content"].strip()]
    return {**data, "added_tokens": added, "post_processor": None}


def _renamed_special(data: dict[str, Any]) -> str:
    """Return a tokenizer whose markers have names that no schema can contain.

    With its own, an enum value that spells `<|im_end|>` would be forced as that token.
    """
    nonce = secrets.token_hex(8)
    names = {
        token["content"]: f"\ue000{nonce}.{token['id']}\ue001"
        for token in data.get("added_tokens") or []
        if token["special"]
    }
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in data.get("added_tokens") or []
    ]
    model = dict(data["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(name, name): number for name, number in vocabulary.items()}
    else:  # Unigram: pairs of a token and its score
        model["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps({**data, "added_tokens": added, "model": model, "post_processor": None})


def _compile_template(folder: Path, settings: dict[str, Any]) -> jinja2.Template:
    path = folder / "chat_template.jinja"
    source = _read(path) if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in source}
        source = named.get("default")
    if not isinstance(source, str):
        raise _bad(path, "no chat template", "choose an instruct model, not a base model")

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    # The settings that Hugging Face's own renderer uses.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, **_options: json.dumps(value, ensure_ascii=False)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise _bad(path, f"is no template: {error}") from error


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, f"cannot be read: {error}", "pull the model again") from error


def _read_json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if missing is not None and not path.exists():
        return missing
    try:
        data = json.loads(_read(path))
    except ValueError as error:
        raise _bad(path, f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise _bad(path, "is not a JSON object")
    return data


def _bad(
    path: Path, what: str, hint: str = "pull the model again, or choose another"
) -> ConfigError:
    return ConfigError(what, where=str(path), hint=hint)
