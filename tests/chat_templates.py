"""Chat templates of the kinds that people's models have, cut down to what matters for tools.

`uv run python -m tests.chat_templates` prints what is learned of the published ones.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import jinja2

from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.language.plain_form import (
    explained,
    with_text_arguments,
    without_system,
)
from agentd.model_server.language.template import _Generation, _raise, _to_json, described
from agentd.model_server.protocols import Message
from agentd.model_server.tool_calls import OfferedTool
from agentd.models.gguf import write_byte_level_bpe
from agentd.testing.tiny_model import SPECIAL, make_tiny
from tests.published_templates import PUBLISHED

QWEN = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
# Tools
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}{% if message.content %}{{ '\n' + message.content }}{% endif %}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function is defined %}{% set tool_call = tool_call.function %}{% endif %}
{{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
{{- tool_call.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""

LLAMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system_message = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' + system_message + '<|eot_id|>' }}
{%- if tools is not none %}
{%- set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{{- '<|start_header_id|>user<|end_header_id|>\n\nRespond with JSON for a function call.\n\n' }}
{%- for t in tools %}{{ t | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}
{{- first + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' or message.role == 'ipython' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
{%- if message.content is mapping or message.content is iterable %}{{ message.content | tojson }}
{%- else %}{{ message.content }}{% endif %}{{ '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}
{%- if not message.tool_calls | length == 1 %}
{{- raise_exception('This model only supports single tool-calls at once!') }}{% endif %}
{%- set tool_call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{{- '{"name": "' + tool_call.name + '", "parameters": ' }}
{{- tool_call.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set first = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}
{%- else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}
{%- for message in loop_messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}
{{- message['content'] | trim }}{{ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# As Gemma 2: no system message at all.
NO_SYSTEM = GEMMA.replace(
    "{%- set first = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}",
    "{{- raise_exception('System role not supported') }}",
)

MISTRAL = """\
{%- if messages[0].role == 'system' %}
{%- set system_message = messages[0].content %}{% set loop_messages = messages[1:] %}
{%- else %}{% set loop_messages = messages %}{% endif %}
{%- set user_messages = loop_messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for message in loop_messages %}
{%- if message.role == 'user' %}
{%- if tools is not none and message == user_messages[-1] %}
{{- '[AVAILABLE_TOOLS] [' }}
{%- for tool in tools %}{% set tool = tool.function %}
{{- '{"type": "function", "function": {' }}
{%- for key, val in tool.items() if key != 'return' %}
{%- if val is string %}{{ '"' + key + '": "' + val + '"' }}
{%- else %}{{ '"' + key + '": ' + val | tojson }}{% endif %}
{%- if not loop.last %}, {% endif %}
{%- endfor %}
{{- '}}' }}{% if not loop.last %}, {% else %}]{% endif %}
{%- endfor %}
{{- '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{%- if loop.last and system_message is defined %}
{{- '[INST] ' + system_message + '\n\n' + message.content + '[/INST]' }}
{%- else %}{{ '[INST] ' + message.content + '[/INST]' }}{% endif %}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}
{{- '[TOOL_CALLS] [' }}
{%- for tool_call in message.tool_calls %}
{%- set out = tool_call.function | tojson %}
{{- out[:-1] }}
{%- if not tool_call.id is defined or tool_call.id | length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{{- ', "id": "' + tool_call.id + '"}' }}
{%- if not loop.last %}, {% else %}{{ ']' + eos_token }}{% endif %}
{%- endfor %}
{%- elif message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + message.content | string }}
{%- if not message.tool_call_id is defined or message.tool_call_id | length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{{- ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}
{%- endif %}
{%- endfor %}"""

# As later Mistral models: the name between two special tokens, and nothing else around it.
MISTRAL_NEW = MISTRAL.replace(
    """{{- '[TOOL_CALLS] [' }}
{%- for tool_call in message.tool_calls %}
{%- set out = tool_call.function | tojson %}
{{- out[:-1] }}""",
    """{%- for tool_call in message.tool_calls %}
{{- '[TOOL_CALLS]' + tool_call.function.name + '[ARGS]' }}
{{- tool_call.function.arguments | tojson }}""",
).replace(
    """{{- ', "id": "' + tool_call.id + '"}' }}
{%- if not loop.last %}, {% else %}{{ ']' + eos_token }}{% endif %}""",
    """{%- if loop.last %}{{ eos_token }}{% endif %}""",
)

# As DeepSeek's: the arguments come as text. And as Qwen3-Coder's: they are no JSON at all.
TEXT_ARGUMENTS = QWEN.replace("tool_call.arguments | tojson", "'' + tool_call.arguments")
XML_ARGUMENTS = QWEN.replace(
    """{{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
{{- tool_call.arguments | tojson }}{{ '}\n</tool_call>' }}""",
    """{{- '\n<tool_call>\n<function=' + tool_call.name + '>\n' }}
{%- for key, value in tool_call.arguments | items %}
{{- '<parameter=' + key + '>\n' + value + '\n</parameter>\n' }}{% endfor %}
{{- '</function>\n</tool_call>' }}""",
)

# As newer templates: what a model learns from is marked.
GENERATION = QWEN.replace(
    "{{- '<|im_start|>assistant' }}", "{{- '<|im_start|>assistant' }}{%- generation -%}"
).replace(
    """{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}""",
    """{{- '<|im_end|>\n' }}{%- endgeneration -%}
{%- elif message.role == 'tool' %}""",
)

# Template, special tokens, other added tokens, beginning and end of a text.
KINDS: dict[str, tuple[str, list[str], list[str], str, str]] = {
    "qwen": (
        QWEN,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>"],
        "<|endoftext|>",
        "<|im_end|>",
    ),
    "llama": (
        LLAMA,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        [],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], [], "<bos>", "<end_of_turn>"),
    "mistral": (
        MISTRAL,
        [
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[ARGS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ],
        [],
        "<s>",
        "</s>",
    ),
}
KINDS["no_system"] = (NO_SYSTEM, *KINDS["gemma"][1:])
KINDS["mistral_new"] = (MISTRAL_NEW, *KINDS["mistral"][1:])
KINDS["generation"] = (GENERATION, *KINDS["qwen"][1:])
KINDS["text_arguments"] = (TEXT_ARGUMENTS, *KINDS["qwen"][1:])
KINDS["xml_arguments"] = (XML_ARGUMENTS, *KINDS["qwen"][1:])


def rendered(
    kind: str,
    language: ModelLanguage,
    messages: Sequence[Message],
    tools: Sequence[OfferedTool] = (),
) -> str:
    """Return what Hugging Face's renderer makes of a conversation, told in the template's way."""
    if kind in KINDS:
        source, _special, _added, bos, eos = KINDS[kind]
    else:
        one = PUBLISHED[kind]
        calls = any("tool_calls" in message for message in messages)
        other = one.tool_use if (tools or calls) and language.form.native else None
        source, bos, eos = other or one.source, one.bos, one.eos
    if not language.form.native:
        messages, tools = explained(messages, tools), ()
    if language.form.text_arguments:
        messages = with_text_arguments(messages)
    if not language._takes_system:
        messages = without_system(messages)
    given = {"bos_token": bos, "eos_token": eos, "enable_thinking": False, "thinking": False}
    shown = [described(tool) for tool in tools] or None
    return (
        huggingface()
        .from_string(source)
        .render(messages=messages, tools=shown, add_generation_prompt=True, **given)
    )


def huggingface() -> jinja2.Environment:
    """Return templates as Hugging Face's renderer has them, which keeps nothing apart."""
    found = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    found.filters["tojson"] = _to_json
    found.globals["raise_exception"] = _raise
    found.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return found


def make(kind: str, folder: Path) -> Path:
    """Write a tiny random model with a template of this kind; return its folder."""
    if kind in KINDS:
        return _write(folder, *KINDS[kind])
    one = PUBLISHED[kind]
    _write(folder, one.source, one.specials, list(one.added), one.bos, one.eos)
    if one.tool_use and kind == "hermes":  # both in one file, as it used to be
        (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [
            {"name": "default", "template": one.source},
            {"name": "tool_use", "template": one.tool_use},
        ]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    elif one.tool_use:
        more = folder / "additional_chat_templates"
        more.mkdir()
        (more / "tool_use.jinja").write_text(one.tool_use)
    return folder


def _write(
    folder: Path, template: str, special: list[str], added: list[str], bos: str, eos: str
) -> Path:
    make_tiny(folder)
    old = json.loads((folder / "tokenizer.json").read_text())["model"]
    old_special = len(SPECIAL)
    plain = [token for token, number in old["vocab"].items() if number >= old_special]
    tokens = [*special, *plain, *added]
    write_byte_level_bpe(
        folder,
        vocab={token: number for number, token in enumerate(tokens)},
        merges=old["merges"],
        special=[*enumerate(special), *enumerate(added, len(tokens) - len(added))],
        bos=bos,
        eos=eos,
        chat_template=template,
    )
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"] in special
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "config.json").read_text())
    config.update(vocab_size=len(tokens), eos_token_id=special.index(eos))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def main() -> None:
    """Print a table: how each template takes system texts and calls, and how its prompts end."""
    print(f"{'template':14} {'system':7} {'calls':46} prompts end in")
    for name in PUBLISHED:
        with TemporaryDirectory() as folder:
            language = ModelLanguage(make(name, Path(folder) / "m"))
        form = language.form
        call = f"{form.before}NAME{form.between}" if form.native else "our own form"
        system = "yes" if language._takes_system else "no"
        user: list[Message] = [{"role": "user", "content": "x"}]
        end = language._marked.decode(language.encode_chat(user).tokens, skip_special_tokens=False)
        print(f"{name:14} {system:7} {call.encode('unicode_escape').decode():46} {end[-40:]!r}")


if __name__ == "__main__":
    main()
