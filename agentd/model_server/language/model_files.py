"""What the files of a model's folder say: its chat templates, and how it likes to be sampled."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd.errors import ConfigError
from agentd.model_server.calls import Sampling

# What each of generation_config.json may be; what is less or more is left out.
BETWEEN = {
    "temperature": (0, 2.0),
    "top_p": (0, 1.0),
    "top_k": (0, 2**31),
    "min_p": (0, 1.0),
    "repetition_penalty": (1, 2.0),  # less than 1 would have it repeat itself
}


def read(path: Path) -> str:
    """Return a file's text. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad(path, f"cannot be read: {error}", "pull the model again") from error


def read_json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a file's JSON object, or `missing` where there is no file. Raises ConfigError."""
    if missing is not None and not path.exists():
        return missing
    try:
        data = json.loads(read(path))
    except ValueError as error:
        raise bad(path, f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise bad(path, "is not a JSON object")
    return data


def bad(
    path: Path, what: str, hint: str = "pull the model again, or choose another"
) -> ConfigError:
    """Return the error of a file that is not what it should be."""
    return ConfigError(what, where=str(path), hint=hint)


def chat_templates(folder: Path, settings: dict[str, Any]) -> tuple[str, str | None]:
    """Return the chat template's source, and that of the one for tools, if there is another.

    They stand in files of their own, or in tokenizer_config.json (`settings`), one or a list.

    Raises:
        ConfigError: there is none.
    """
    given = settings.get("chat_template")
    if isinstance(given, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in given}
    else:
        named = {"default": given}
    path = folder / "chat_template.jinja"
    files = {"default": path, "tool_use": folder / "additional_chat_templates" / "tool_use.jinja"}
    named.update({name: read(file) for name, file in files.items() if file.is_file()})
    default, tool_use = named.get("default"), named.get("tool_use")
    if not isinstance(default, str):
        raise bad(path, "no chat template", "choose an instruct model, not a base model")
    return default, tool_use if isinstance(tool_use, str) else None


def sampling(folder: Path) -> Sampling:
    """Return how the model is sampled where a request does not say.

    As transformers reads generation_config.json: what does not ask for sampling gets none. A
    temperature without a word on that asks for it. A penalty counts without sampling, too.
    """
    config = read_json(folder / "generation_config.json", missing={})
    found = {
        key: type(most)(config[key])
        for key, (least, most) in BETWEEN.items()
        if type(config.get(key)) in (int, float) and least <= config[key] <= most
    }
    if not config.get("do_sample", "temperature" in found):
        return Sampling(repetition_penalty=found.get("repetition_penalty", 1.0))
    return replace(Sampling(temperature=1.0), **found)  # type: ignore[arg-type]  # top_k is an int
