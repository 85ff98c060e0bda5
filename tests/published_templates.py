# ruff: noqa: E501, RUF001  templates are lines of their own, and DeepSeek's bars are wide
"""Forms of published chat templates, written anew and small, with what each needs.

Each keeps what made trouble once, or may: how it takes system texts and tools, how it declares
parameters, how it writes calls, what it does with thoughts.
"""

import re
from dataclasses import dataclass

from agentd.model_server.tool_calls import MARKS

M = MARKS
MARKER = re.compile(
    r"<[|｜][^<>\s{}]{1,40}[|｜]>|<[a-z]+_of_turn>|\[/?[A-Z]+_?[A-Z]*\]|<\|?turn\|?>"
)


@dataclass(frozen=True)
class Published:
    """A template, and how it is to be understood."""

    source: str
    eos: str
    bos: str = "<s>"
    special: tuple[str, ...] = ()  # beside those that the source spells
    added: tuple[str, ...] = ()  # tokens that are markers, though not special
    tool_use: str | None = None  # another template, for tools
    call: tuple[str, str] | None = (
        None  # what stands before and behind a call's name; None: our own form
    )
    system: bool = True  # takes a system message
    ends: str = ""  # what prompts end in
    says: tuple[str, ...] = ()  # what declarations say of WEATHER's parameters

    @property
    def specials(self) -> list[str]:
        """Its special tokens."""
        spelled = MARKER.findall(self.source + (self.tool_use or ""))
        return list(dict.fromkeys([self.bos, self.eos, *spelled, *self.special]))


CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

HERMES_TOOLS = """\
{{- '<|im_start|>system\n<tools>' + (tools | tojson) + '</tools><|im_end|>\n' }}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}
{%- for call in m.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# Chat as ChatML has it, with calls in <tool_call>; what becomes of thoughts is put in.
QWEN3 = """\
{%- if tools %}{{ '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
{%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}
{%- set ns = namespace(last=messages|length - 1, searching=true) %}
{%- for m in messages[::-1] %}{% set at = messages|length - 1 - loop.index0 %}
{%- if ns.searching and m.role == 'user' and not (m.content.startswith('<tool_response>')
 and m.content.endswith('</tool_response>')) %}
{%- set ns.searching = false %}{% set ns.last = at %}{% endif %}{% endfor %}
{%- for m in messages %}{% set content = m.content if m.content is string else '' %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}{% set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content }}
{%- else %}{{ '<|im_start|>assistant\n' + content }}{% endif %}
{%- for call in m.tool_calls or [] %}
{%- if not loop.first or content %}{{ '\n' }}{% endif %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + content + '\n</tool_response><|im_end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

# Arguments as XML; and contents by way of a macro, whose text is split afterwards.
QWEN_CODER = """\
{%- macro shown(content) %}{% if content is string %}{{ content }}{% endif %}{% endmacro %}
{%- if tools %}{{ '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{ shown(messages[0].content) | trim }}{% endif %}
{%- for tool in tools %}{% set f = tool.function %}
{{- '\n<function>\n<name>' ~ f.name ~ '</name>\n<description>' ~ (f.description | trim) ~ '</description>' }}
{%- for name, p in f.parameters.properties | items %}
{{- '\n<parameter>\n<name>' ~ name ~ '</name><type>' ~ p.type ~ '</type></parameter>' }}{% endfor %}
{{- '\n<required>' ~ f.parameters.required | tojson ~ '</required>\n</function>' }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' + shown(messages[0].content) | trim + '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{% set content = shown(m.content) | trim %}
{%- if m.role == 'system' %}{% if not loop.first %}
{{- raise_exception('System message must be at the beginning.') }}{% endif %}
{%- elif m.role == 'assistant' %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{- '<|im_start|>assistant\n' + content }}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>\n<function=' + call.function.name + '>\n' }}
{%- for key, value in call.function.arguments | items %}
{{- '<parameter=' + key + '>\n' + (value if value is string else value | tojson) + '\n</parameter>\n' }}
{%- endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- else %}{{ '<|im_start|>user\n' + content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '\n</think>\n\n' }}{% endif %}
{%- endif %}"""

LLAMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{%- set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + strftime_now('%Y') + '\n' }}
{{- system + '<|eot_id|>' }}
{%- if tools %}{% set first = messages[0].content | trim %}{% set messages = messages[1:] %}
{{- '<|start_header_id|>user<|end_header_id|>\n\n' }}
{%- for t in tools %}{{ t | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}{{ first + '<|eot_id|>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' }}
{%- elif 'tool_calls' in m %}{% set call = m.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# Calls as Python writes them.
PYTHONIC = """\
{{- bos_token }}{%- set ns = namespace(system='') %}
{%- if messages[0].role == 'system' %}{% set ns.system = messages[0].content %}
{%- set messages = messages[1:] %}{% endif %}
{%- if tools %}{% set ns.system = ns.system + '\nList of tools: <|tool_list_start|>[' %}
{%- for tool in tools %}{% set ns.system = ns.system + (tool | tojson) %}
{%- if not loop.last %}{% set ns.system = ns.system + ', ' %}{% endif %}{% endfor %}
{%- set ns.system = ns.system + ']<|tool_list_end|>' %}{% endif %}
{%- if ns.system %}{{ '<|im_start|>system\n' + ns.system + '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- for call in m.tool_calls or [] %}{{ '<|tool_call_start|>[' + call.function.name + '(' }}
{%- for key, value in call.function.arguments | dictsort %}
{{- key + '="' + (value | string) + '"' }}{% if not loop.last %}, {% endif %}{% endfor %}
{{- ')]<|tool_call_end|>' }}{% endfor %}{{ m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

MISTRAL = """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}
{%- set messages = messages[1:] %}{% endif %}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}{{ bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST]' + (system + '\n\n' if system is defined and m == users[-1] else '') + m.content + '[/INST]' }}
{%- elif m.tool_calls %}CALLS{{ eos_token }}
{%- elif m.role == 'assistant' %}{{ m.content | trim + eos_token }}
{%- elif m.role == 'tool' %}
{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{{- '[TOOL_RESULTS]{"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- endif %}{% endfor %}"""
MISTRAL_LIST = """{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}{{ (call.function | tojson)[:-1] }}
{%- if call.id | length != 9 %}{{ raise_exception('length 9!') }}{% endif %}
{{- ', "id": "' + call.id + '"}' }}{% endfor %}{{ ']' }}"""
MISTRAL_ID = """{% for call in m.tool_calls %}{% if call.id | length != 9 %}
{{- raise_exception('length 9!') }}{% endif %}
{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' }}
{{- call.function.arguments | tojson }}{% endfor %}"""
MAGISTRAL = """\
{{- bos_token + '[SYSTEM_PROMPT]' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}
{%- else %}{{ 'First think: [THINK]your thoughts[/THINK]Then answer.' }}{% endif %}{{ '[/SYSTEM_PROMPT]' }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'assistant' %}{{ m.content + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '[THINK]' }}{% endif %}"""

GEMMA = """\
{{- bos_token }}{% if messages[0].role == 'system' %}SYSTEM{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{{- first if first and loop.first else '' }}{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# Declarations and calls in a notation of its own, sorted by their keys.
GEMMA4 = """\
{%- macro value(v) %}{% if v is string %}{{ '<|"|>' + v + '<|"|>' }}
{%- elif v is mapping %}{{ '{' }}{% for k, inner in v | dictsort %}{{ k + ':' + value(inner) }}
{%- if not loop.last %},{% endif %}{% endfor %}{{ '}' }}
{%- elif v is iterable %}{{ '[' }}{% for inner in v %}{{ value(inner) }}
{%- if not loop.last %},{% endif %}{% endfor %}{{ ']' }}{% else %}{{ v }}{% endif %}{% endmacro %}
{%- macro without_thought(text) %}
{%- for part in text.split('<channel|>') %}{{ part.split('<|channel>')[0] }}{% endfor %}{% endmacro %}
{{- bos_token }}
{%- if tools or messages[0].role == 'system' %}{{ '<|turn>system\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}
{%- for tool in tools or [] %}{% set f = tool.function %}
{{- '<|tool>declaration:' + f.name + '{description:<|"|>' + f.description + '<|"|>,parameters:{properties:{' }}
{%- for name, p in f.parameters.properties | dictsort %}
{{- name + ':{type:<|"|>' + p.type | upper + '<|"|>}' }}{% if not loop.last %},{% endif %}{% endfor %}
{{- '},required:' + value(f.parameters.required) + '}}<tool|>' }}{% endfor %}{{ '<turn|>\n' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|tool_response>response:' + m.name + '{value:' + value(m.content) + '}<tool_response|>' }}
{%- else %}{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{%- for call in m.tool_calls or [] %}
{{- '<|tool_call>call:' + call.function.name + value(call.function.arguments) + '<tool_call|>' }}{% endfor %}
{{- (without_thought(m.content) | trim if m.role == 'assistant' else m.content | trim) + '<turn|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|turn>model\n' }}
{%- if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}"""

# Channels: an answer stands in "final"; and parameters as TypeScript has them.
HARMONY = """\
{{- '<|start|>system<|message|>Reasoning: low<|end|>' }}
{%- if messages[0].role == 'system' %}{% set said = messages[0].content %}{% set messages = messages[1:] %}{% endif %}
{%- if said or tools %}{{ '<|start|>developer<|message|>' }}{% if said %}{{ '# Instructions\n\n' + said }}{% endif %}
{%- if tools %}{{ '\n# Tools\nnamespace functions {\n' }}
{%- for tool in tools %}{% set f = tool.function %}{{ '// ' + f.description + '\ntype ' + f.name + ' = (_: {\n' }}
{%- for name, p in f.parameters.properties.items() %}
{{- name }}{% if name not in (f.parameters.required or []) %}?{% endif %}{{ ': ' + p.type + ',\n' }}{% endfor %}
{{- '}) => any;\n' }}{% endfor %}{{ '}' }}{% endif %}{{ '<|end|>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' and 'tool_calls' in m %}{% set call = m.tool_calls[0].function %}
{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
{{- call.arguments | tojson }}{{ '<|call|>' }}
{%- elif m.role == 'assistant' %}
{%- if '<|channel|>analysis<|message|>' in m.content %}{{ raise_exception('You have passed a thought') }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
{%- elif m.role == 'tool' %}
{{- '<|start|>functions.' + m.name + ' to=assistant<|channel|>commentary<|message|>' + (m.content | tojson) + '<|end|>' }}
{%- else %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

APERTUS = """\
{{- bos_token + '<|system_start|>' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}
{{- '<|system_end|><|developer_start|>Deliberation: ' + ('enabled' if enable_thinking else 'disabled') }}
{%- for tool in tools or [] %}{% set f = tool.function %}
{{- '\n// ' + f.description + '\ntype ' + f.name + ' = (_: {' }}
{%- for name in f.parameters.properties | list | sort %}
{{- name + ('' if name in f.parameters.required else '?') + ': ' + f.parameters.properties[name].type + ', ' }}
{%- endfor %}{{ '}) => any;' }}{% endfor %}{{ '<|developer_end|>' }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|user_start|>' + m.content + '<|user_end|>' }}
{%- elif m.role == 'tool' %}{{ '[' + m.content + ']' }}
{%- else %}{{ '<|assistant_start|>' }}
{%- if m.tool_calls %}{{ '<|tools_prefix|>[' }}{% for call in m.tool_calls %}
{{- '{"' + call.function.name + '": ' }}{{ call.function.arguments | tojson }}{{ '}' }}{% endfor %}
{{- ']<|tools_suffix|>' }}{% endif %}{{ m.content }}
{%- if not m.tool_calls %}{{ '<|assistant_end|>' }}{% endif %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"""

GIGACHAT = """\
{%- macro shown(name, p, required) %}{{ name ~ ('' if name in required else '?') ~ ': ' ~ p.type ~ ',\n' }}{% endmacro %}
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '<|message_sep|>' }}{% set messages = messages[1:] %}{% endif %}
{%- if tools %}{{ 'developer functions<|role_sep|>\n' }}{% for tool in tools %}{% set f = tool.function %}
{{- '// ' ~ f.description ~ '\ntype ' ~ f.name ~ ' = (_: {\n' }}
{%- for name, p in f.parameters.properties.items() %}{{ shown(name, p, f.parameters.required) }}{% endfor %}
{{- '}) => any;\n' }}{% endfor %}{{ '<|message_sep|>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ 'function result<|role_sep|>' ~ m.content ~ '<|message_sep|>' }}
{%- elif m.tool_calls %}{% set call = m.tool_calls[0].function %}
{{- 'assistant<|role_sep|>' ~ m.content ~ '<|message_sep|>function call<|role_sep|>' }}
{{- '{"name": "' ~ call.name ~ '", "arguments": ' ~ call.arguments | tojson ~ '}<|message_sep|>' }}
{%- else %}{{ m.role ~ '<|role_sep|>' ~ m.content ~ '<|message_sep|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant<|role_sep|>' }}{% endif %}"""

DEEPSEEK = """\
{%- set ns = namespace(system='') %}
{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + m.content %}{% endif %}{% endfor %}
{%- for tool in tools or [] %}{% set ns.system = ns.system + '\n' + (tool | tojson) %}{% endfor %}
{{- bos_token + ns.system }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.tool_calls %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}{% for call in m.tool_calls %}
{{- '<｜tool▁call▁begin｜>HEAD' + ARGUMENTS + 'TAIL<｜tool▁call▁end｜>' }}{% endfor %}
{{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
{%- elif m.role == 'assistant' %}{% set content = m.content %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
{%- elif m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}PROMPT{% endif %}"""


def _deepseek(head: str, arguments: str, tail: str, prompt: str) -> str:
    filled = DEEPSEEK.replace("HEAD", head).replace("ARGUMENTS", arguments)
    return filled.replace("TAIL", tail).replace("PROMPT", prompt)


NAMED_HEAD = "' + call.function.name + '"

GRANITE = """\
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}
{%- else %}{% set system = "Today's year: " + strftime_now('%Y') %}{% if thinking %}{% set system = system + ' Think.' %}{% endif %}{% endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}
{%- if tools %}{{ '<|start_of_role|>tools<|end_of_role|>' }}{{ tools | tojson(indent=4) }}{{ '<|end_of_text|>\n' }}{% endif %}
{%- for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}
{%- if m.tool_calls %}{{ '<|tool_call|>[' }}{% for call in m.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}{% endfor %}{{ ']' }}{% endif %}
{{- m.content + '<|end_of_text|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"""

COMMAND = """\
{{- bos_token }}
{%- for m in messages %}{% set turn = '<|START_OF_TURN_TOKEN|>' %}
{%- if m.role == 'system' %}{{ turn + '<|SYSTEM_TOKEN|>' + m.content }}
{%- elif m.role == 'user' %}{{ turn + '<|USER_TOKEN|>' + m.content | trim }}
{%- elif m.role == 'tool' %}{{ turn + '<|SYSTEM_TOKEN|><results>' + m.content + '</results>' }}
{%- elif m.tool_calls %}CALLS
{%- else %}{{ turn + '<|CHATBOT_TOKEN|>' }}ANSWER{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""
COMMAND_R = COMMAND.replace("ANSWER", "{{ m.content | trim }}").replace(
    "CALLS", "{{ raise_exception('no tools') }}"
)
COMMAND_R_TOOLS = "{{ tools | tojson }}" + COMMAND.replace("ANSWER", "{{ m.content }}").replace(
    "CALLS",
    """{{ turn + '<|CHATBOT_TOKEN|>Action:```json\n[\n' }}{% for call in m.tool_calls %}
{{- {'tool_name': call.function.name, 'parameters': call.function.arguments} | tojson(indent=4) }}{% endfor %}
{{- '\n]```' }}""",
)
COMMAND_A = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}" + COMMAND.replace(
    "{{- bos_token }}", ""
).replace("ANSWER", "{{ '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' }}").replace(
    "CALLS",
    """{{ turn + '<|CHATBOT_TOKEN|><|START_ACTION|>[' }}{% for call in m.tool_calls %}
{{- '{"tool_call_id": "0", "tool_name": "' + call.function.name + '", "parameters": ' }}
{{- call.function.arguments | tojson }}{{ '}' }}{% endfor %}{{ ']<|END_ACTION|>' }}""",
)

# Markers that are put together of a role.
PHI_MINI = """\
{%- for m in messages %}
{%- if m.role == 'system' and tools %}{{ '<|' + m.role + '|>' + m.content + '<|tool|>' + (tools | tojson) + '<|/tool|><|end|>' }}
{%- else %}{{ '<|' + m.role + '|>' }}{% if m.tool_calls %}{{ '<|tool_call|>[' }}{% for call in m.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}{% endfor %}{{ ']<|/tool_call|>' }}{% endif %}
{{- m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""
PHI4 = """\
{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
NO_MARKERS = """\
{%- for m in messages %}
{%- if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}
{%- elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

KIMI = """\
{%- if tools %}{{ '<|im_system|>tool_declare<|im_middle|>' + (tools | tojson(separators=(',', ':'))) + '<|im_end|>' }}{% endif %}
{%- for m in messages %}{{ '<|im_' + ('user' if m.role == 'user' else 'assistant' if m.role == 'assistant' else 'system') + '|>' + m.role + '<|im_middle|>' + m.content }}
{%- if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}{% for call in m.tool_calls %}
{{- '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' + (call.function.arguments | tojson) + '<|tool_call_end|>' }}
{%- endfor %}{{ '<|tool_calls_section_end|>' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"""

GLM = """\
[gMASK]<sop>
{%- if tools %}{{ '<|system|>\n<tools>\n' }}{% for tool in tools %}{{ tool | tojson(ensure_ascii=False) }}{{ '\n' }}{% endfor %}{{ '</tools>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|user|>\n' + m.content + ('/nothink' if enable_thinking is false and not m.content.endswith('/nothink') else '') }}
{%- elif m.role == 'assistant' %}{{ '<|assistant|>\n<think></think>\n' + m.content.split('</think>')[-1].strip() }}
{%- for call in m.tool_calls or [] %}{{ '\n<tool_call>' + call.function.name + '\n' }}
{%- for k, v in call.function.arguments.items() %}
{{- '<arg_key>' + k + '</arg_key>\n<arg_value>' + (v if v is string else v | tojson) + '</arg_value>\n' }}{% endfor %}{{ '</tool_call>' }}{% endfor %}
{%- elif m.role == 'tool' %}{{ '<|observation|>\n' + m.content }}
{%- else %}{{ '<|system|>\n' + m.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{{ '\n<think></think>' if enable_thinking is false else '' }}{% endif %}"""

# Opens a thought whatever is asked.
MINIMAX = """\
{{- ']~!b[]~b]system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}
{%- for tool in tools or [] %}{{ '\n<tool>' ~ tool.function | tojson(ensure_ascii=False) ~ '</tool>' }}{% endfor %}{{ '[e~[\n' }}
{%- for m in messages %}{{ ']~b]' ~ ('ai' if m.role == 'assistant' else m.role) ~ '\n' ~ m.content }}
{%- for call in m.tool_calls or [] %}{{ '<minimax:tool_call>\n<invoke name="' + call.function.name + '">' }}
{%- for k, v in call.function.arguments.items() %}{{ '<parameter name="' + k + '">' + (v | string) + '</parameter>' }}{% endfor %}
{{- '</invoke>\n</minimax:tool_call>' }}{% endfor %}{{ '[e~[\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ ']~b]ai\n<think>\n' }}{% endif %}"""

NEMOTRON = """\
{{- bos_token + '<SPECIAL_10>System\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content | replace('/think', '') | trim }}{% set messages = messages[1:] %}{% endif %}
{%- if tools %}{{ '<AVAILABLE_TOOLS>[' ~ tools | map(attribute='function') | map('tojson') | join(', ') ~ ']</AVAILABLE_TOOLS>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '\n<SPECIAL_11>User\n' ~ m.content }}
{%- elif m.role == 'tool' %}{{ '\n<SPECIAL_11>User\n<TOOL_RESPONSE>[' ~ m.content ~ ']</TOOL_RESPONSE>' }}
{%- else %}{{ '\n<SPECIAL_11>Assistant\n' ~ m.content.split('</think>')[-1] | trim }}
{%- if m.tool_calls %}{{ '<TOOLCALL>[' }}{% for call in m.tool_calls %}
{{- '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ call.function.arguments | tojson ~ '}' }}{% endfor %}{{ ']</TOOLCALL>' }}{% endif %}
{{- '\n<SPECIAL_12>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '\n<SPECIAL_11>Assistant\n<think>\n' }}{% endif %}"""

EXAONE = """\
{%- for m in messages %}
{%- if loop.first and m.role != 'system' and tools %}{{ '[|system|]\n' }}{% for t in tools %}{{ '<tool>' ~ t | tojson ~ '</tool>\n' }}{% endfor %}{{ '[|endofturn|]\n' }}{% endif %}
{{- '[|' ~ m.role ~ '|]\n' }}
{%- if loop.first and m.role == 'system' and tools %}{% for t in tools %}{{ '<tool>' ~ t | tojson ~ '</tool>\n' }}{% endfor %}{% endif %}
{%- if m.role == 'tool' %}{{ '<tool_result>' ~ m.content ~ '</tool_result>' }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}
{%- for call in m.tool_calls or [] %}{{ '<tool_call>{"name": "' ~ call.function.name ~ '", "arguments": ' ~ call.function.arguments | tojson ~ '}</tool_call>' }}{% endfor %}
{{- '[|endofturn|]\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '[|assistant|]\n' }}{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}"""

SEED = """\
{%- for m in messages %}{{ bos_token ~ m.role ~ '\n' ~ m.content ~ eos_token }}{% endfor %}
{%- if add_generation_prompt %}{{ bos_token ~ 'assistant\n<seed:think>' }}{% endif %}"""

IM = ("<|im_start|>", "<|im_end|>")
TOOL_CALL = ("<tool_call>", "</tool_call>", "<think>", "</think>")
JSON_CALL = ('<tool_call>\n{"name": "', '", "arguments": ')
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
DS = "<｜end▁of▁sentence｜>"

PUBLISHED = {
    "chatml": Published(CHATML, "<|im_end|>"),
    "qwen3": Published(QWEN3, "<|im_end|>", added=TOOL_CALL, call=JSON_CALL, ends=EMPTY_THOUGHT),
    "qwen3 coder": Published(QWEN_CODER, "<|im_end|>", added=TOOL_CALL, ends=EMPTY_THOUGHT),
    "hermes": Published(
        CHATML,
        "<|im_end|>",
        tool_use=HERMES_TOOLS,
        call=JSON_CALL,
    ),
    "other names": Published(  # what it writes cannot be read back, so it is not asked to
        CHATML,
        "<|im_end|>",
        tool_use=HERMES_TOOLS.replace(
            "call.function.name", "call.function.name | replace('-', '_')"
        ),
    ),
    "llama 3": Published(LLAMA, "<|eot_id|>", call=('{"name": "', '", "parameters": ')),
    "lfm2": Published(PYTHONIC, "<|im_end|>"),
    "mistral nemo": Published(
        MISTRAL.replace("CALLS{{", MISTRAL_LIST + "{{"),
        "</s>",
        call=(f'{M[0]}[{{"name": "', '", "arguments": '),
    ),
    "mistral small": Published(
        MISTRAL.replace("CALLS{{", MISTRAL_ID + "{{"),
        "</s>",
        call=(M[0], f"{M[1]}call00000{M[2]}"),
    ),
    "magistral": Published(MAGISTRAL, "</s>", ends="[THINK]\n[/THINK]\n\n"),
    "gemma 2": Published(
        GEMMA.replace("SYSTEM", "{{ raise_exception('System role not supported') }}"),
        "<end_of_turn>",
        system=False,
    ),
    "gemma 3": Published(
        GEMMA.replace(
            "SYSTEM",
            "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}",
        ),
        "<end_of_turn>",
    ),
    "gemma 4": Published(
        GEMMA4,
        "<turn|>",
        special=("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>"),
        ends="<|channel>thought\n<channel|>",
        says=('{city:{type:<|"|>STRING<|"|>},days:{type:<|"|>INTEGER<|"|>}}', '[<|"|>city<|"|>]'),
    ),
    "gpt-oss": Published(
        HARMONY,
        "<|return|>",
        ends="<|start|>assistant<|channel|>final<|message|>",
        says=("days?: integer", "city: string"),
    ),
    "apertus": Published(
        APERTUS,
        "<|assistant_end|>",
        call=(f'{M[0]}[{{"', '": '),
        says=("city: string", "days?: integer"),
    ),
    "gigachat": Published(GIGACHAT, "<|message_sep|>", says=("days?: integer", "city: string")),
    "deepseek v3": Published(
        _deepseek(
            "function<｜tool▁sep｜>' + call.function.name + '\n```json\n",
            "call.function.arguments",
            "\n```",
            "",
        ),
        DS,
        call=(f"{M[0]}{M[1]}function{M[2]}", "\n```json\n"),
    ),
    "deepseek r1": Published(
        _deepseek(
            NAMED_HEAD + "<｜tool▁sep｜>",
            "call.function.arguments | tojson",
            "",
            "{{ '<think>\n' }}",
        ),
        DS,
        added=("<think>", "</think>"),
        call=(f"{M[0]}{M[1]}", f"{M[2]}"),
        ends="<think>\n\n</think>\n\n",
    ),
    "deepseek v3.1": Published(
        _deepseek(
            NAMED_HEAD + "<｜tool▁sep｜>",
            "call.function.arguments | tojson",
            "",
            "{{ '<think>' if thinking else '</think>' }}",
        ),
        DS,
        added=("<think>", "</think>"),
        call=(f"{M[0]}{M[1]}", f"{M[2]}"),
        ends="</think>",
    ),
    "granite": Published(
        GRANITE, "<|end_of_text|>", call=(f'{M[0]}[{{"name": "', '", "arguments": ')
    ),
    "command r": Published(COMMAND_R, "<|END_OF_TURN_TOKEN|>", tool_use=COMMAND_R_TOOLS),
    "command a": Published(COMMAND_A, "<|END_OF_TURN_TOKEN|>", ends="<|START_RESPONSE|>"),
    "phi-4 mini": Published(
        PHI_MINI,
        "<|end|>",
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"),
    ),
    "phi-4": Published(PHI4, "<|im_end|>"),
    "zephyr": Published(ZEPHYR, "</s>"),
    "no markers": Published(NO_MARKERS, "</s>", system=False),
    "kimi k2": Published(
        KIMI, "<|im_end|>", special=("<|im_user|>", "<|im_assistant|>", "<|im_system|>")
    ),
    "glm 4.5": Published(
        GLM, "<|user|>", special=("[gMASK]", "<sop>"), added=TOOL_CALL, ends="<think></think>"
    ),
    "minimax": Published(
        MINIMAX,
        "[e~[",
        special=("]~!b[", "]~b]"),
        added=("<think>", "</think>", "<minimax:tool_call>"),
        ends=EMPTY_THOUGHT,
    ),
    "nemotron": Published(
        NEMOTRON,
        "<SPECIAL_12>",
        special=("<SPECIAL_10>", "<SPECIAL_11>"),
        added=("<think>", "</think>", "<TOOLCALL>"),
        call=('<TOOLCALL>[{"name": "', '", "arguments": '),
        ends=EMPTY_THOUGHT,
    ),
    "exaone": Published(
        EXAONE,
        "[|endofturn|]",
        special=("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]"),
        added=TOOL_CALL,
        call=('<tool_call>{"name": "', '", "arguments": '),
        ends=EMPTY_THOUGHT,
    ),
    "seed": Published(
        SEED,
        "<seed:eos>",
        bos="<seed:bos>",
        special=("<seed:think>", "</seed:think>"),
        ends="<seed:think>\n</seed:think>\n\n",
    ),
}
