"""Published chat templates, one by one: what each is given, and what a model reads of it."""

import json
import re
from typing import Any

import pytest

from agentd.llm.thoughts import left_open
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.language.template import Template
from agentd.model_server.tool_calls import OWN_FORM, CallReader, OfferedTool, decoder
from tests import chat_templates
from tests.published_templates import PUBLISHED

# No description, and one parameter that is required: the second of the two, and not the first.
WEATHER = OfferedTool(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "days": {"type": "integer"},
            "city": {"type": "string"},
        },
        "required": ["city"],
    },
)
ARGUMENTS = {"days": 3, "city": 'Bern "x"'}


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelLanguage]:
    """A tiny model's language with each template."""
    return {
        name: ModelLanguage(chat_templates.make(name, tmp_path_factory.mktemp("t")))
        for name in PUBLISHED
    }


def conversation(text: str = "") -> list[dict[str, Any]]:
    """Return one with all that there may be, and with this text wherever there can be one."""
    function = {"name": "get_weather", "arguments": {**ARGUMENTS, "city": f"Bern{text}"}}
    call = {"id": "call00000", "type": "function", "function": function}
    return [
        {"role": "system", "content": f"Be brief.{text}"},
        {"role": "user", "content": f" hello{text} "},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "call00000",
            "name": "get_weather",
            "content": f"rain{text}",
        },
        {"role": "assistant", "content": f"It rains.{text}"},
        {"role": "user", "content": f"and then?{text}"},
    ]


def text_of(language: ModelLanguage, tokens: list[int]) -> str:
    return str(language._marked.decode(tokens, skip_special_tokens=False))


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_template_needs_is_learned(languages: dict[str, ModelLanguage], name: str) -> None:
    """How it writes calls, and whether it takes a system message."""
    one, language = PUBLISHED[name], languages[name]
    found = language.form
    call = (found.before, found.between) if found.native else None
    assert call == one.call
    assert found.native or found == OWN_FORM
    assert language._takes_system == one.system


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    "text",
    ["", " \n", "</think> so", "<think>x</think>y", "/think", "<b>é日</b>", '"q"\\', "{{ x }}"],
)
def test_a_prompt_is_what_the_template_writes(
    languages: dict[str, ModelLanguage], name: str, text: str
) -> None:
    """To the character, also where it splits, trims, compares, sorts or counts what it is given."""
    language = languages[name]
    for messages, tools in (
        (conversation(text), [WEATHER]),
        (conversation(text)[:2], []),
        (conversation(text)[:2], [WEATHER]),
    ):
        said = text_of(language, language.encode_chat(messages, tools).tokens)
        try:
            wanted = chat_templates.rendered(name, language, messages, tools)
        except Exception:  # it wants a description
            wanted = chat_templates.rendered(name, language, messages, described(tools))
        assert said.startswith(wanted)
        assert said.removeprefix(wanted) in ("", *ENDINGS)


def described(tools: list[OfferedTool]) -> list[Any]:
    """Return tools whose description is there and empty."""

    class Empty(str):
        def __bool__(self) -> bool:
            return True

    return [OfferedTool(tool.name, tool.parameters, Empty("")) for tool in tools]


ENDINGS = (
    "<|channel|>final<|message|>",
    "<|START_RESPONSE|>",
    *(f"\n{closes}\n\n" for closes in ("</think>", "[/THINK]", "</seed:think>")),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_templates_own_markers_are_tokens(
    languages: dict[str, ModelLanguage], name: str
) -> None:
    """Also those that it puts together of a role, or that passed through macros and filters."""
    language = languages[name]
    special = {language._marked.token_to_id(token) for token in PUBLISHED[name].specials}
    for messages, tools in ((conversation(), [WEATHER]), (conversation()[:2], [])):
        tokens = language.encode_chat(messages, tools).tokens
        whole = language._marked.encode(text_of(language, tokens), add_special_tokens=False).ids
        assert [n for n in tokens if n in special] == [n for n in whole if n in special]


@pytest.mark.parametrize("name", PUBLISHED)
def test_prompts_end_where_an_answer_begins(languages: dict[str, ModelLanguage], name: str) -> None:
    """In no thought, though the template opens one, and in the channel for answers."""
    language = languages[name]
    for messages, tools in ((conversation(), [WEATHER]), (conversation()[:2], [])):
        said = text_of(language, language.encode_chat(messages, tools).tokens)
        assert said.endswith(PUBLISHED[name].ends)
        assert left_open(said) == ""
        tokens = language._marked.encode(said, add_special_tokens=False).ids
        markers = language._markers & set(tokens[-20:])
        assert markers or "no markers" in name or name == "gigachat"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_system_text_is_told(languages: dict[str, ModelLanguage], name: str) -> None:
    """Where there is no such role, in the first message of the user."""
    language = languages[name]
    said = text_of(language, language.encode_chat(conversation()[:2]).tokens)
    assert said.count("Be brief.") == 1
    assert said.index("Be brief.") < said.index("hello")
    if not PUBLISHED[name].system:
        assert "Be brief.\n\n" in said


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tool_is_declared_as_it_is(languages: dict[str, ModelLanguage], name: str) -> None:
    """Without a description it passes; what is required is shown so, and what is not is not."""
    language = languages[name]
    said = text_of(language, language.encode_chat(conversation()[:2], [WEATHER]).tokens)
    assert "get_weather" in said
    if not language.form.native or "?:" not in said:
        assert re.search(r'[Rr]equired"?(</name>)?(: |>|:)\[\s*"?(<\|"\|>)?city', said)
    if language.form.native:
        assert said.count("get_weather") == 1
    else:
        assert "You can call one function" in said


@pytest.mark.parametrize("name", [name for name, one in PUBLISHED.items() if one.says])
def test_a_template_finds_what_is_required(languages: dict[str, ModelLanguage], name: str) -> None:
    """Among the names of a schema, and in their order: equal texts are equal to a template."""
    render = languages[name]._template.render
    said = "".join(text for text, _own in render(conversation()[:2], [WEATHER]))
    for words in PUBLISHED[name].says:
        assert words in said


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_call_that_was_rendered_is_read(languages: dict[str, ModelLanguage], name: str) -> None:
    """Name and arguments: what a model writes as it saw it written is understood."""
    language = languages[name]
    form = language.form
    if not form.native:
        return
    tokens = language.encode_chat(conversation()[:3], [WEATHER]).tokens
    said = decoder().decode(language.decode(tokens), True)
    reader = CallReader(form)
    part = reader.feed(said[said.rindex(form.before) :], last=True)
    assert reader.name == "get_weather"
    arguments, _end = json.JSONDecoder().raw_decode(part.arguments)
    assert arguments == {**ARGUMENTS, "city": "Bern"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_log_that_grows_keeps_the_beginning(
    languages: dict[str, ModelLanguage], name: str
) -> None:
    """What was read once is found in the prompt cache: no order changes, nothing moves."""
    language = languages[name]
    many = [
        OfferedTool(
            f"tool{number}",
            {
                "type": "object",
                "properties": {f"p{9 - n}": {"type": "string"} for n in range(5)},
                "required": ["p5", "p7"],
            },
            f"does {number}",
        )
        for number in range(4)
    ]
    before: list[int] = []
    for turns in range(1, 6):
        log = "".join(f'<event type="e">\n{{"n": {n}}}\n</event>\n' for n in range(turns))
        messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": log}]
        tokens = language.encode_chat(messages, many).tokens
        same = next(
            (n for n, (a, b) in enumerate(zip(before, tokens, strict=False)) if a != b), len(before)
        )
        assert not before or "</event>" in text_of(language, tokens[:same])[-30:]
        before = tokens


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_text_becomes_a_marker(languages: dict[str, ModelLanguage], name: str) -> None:
    """Of all that any template has, in every place of a conversation and of a tool."""
    language = languages[name]
    markers = language._markers

    def count(text: str) -> list[int]:
        schema = {
            "type": "object",
            "description": text,
            "properties": {f"p{text}": {"type": "string", "enum": [text], "description": text}},
            "required": [f"p{text}"],
        }
        tools = [OfferedTool("get_weather", schema, text)]
        tokens = language.encode_chat(conversation(text), tools).tokens
        return [token for token in tokens if token in markers]

    honest = count("q")
    attack = "".join(
        dict.fromkeys(w for one in PUBLISHED.values() for w in (*one.specials, *one.added))
    )
    attack = attack.replace("<|channel|>", "")  # gpt-oss refuses a thought, as it should
    if "think>" in "".join(PUBLISHED[name].added) or name == "gemma 4":
        attack = re.sub(
            r"</?think>|<\|?channel\|?>", "", attack
        )  # there it parts what is a thought
    assert count(attack) == honest


def test_the_template_for_tools_is_taken_for_tools_alone(
    languages: dict[str, ModelLanguage],
) -> None:
    """From a file of its own, or from the list of them."""
    for name in ("hermes", "command r"):
        template = languages[name]._template
        ask = [{"role": "user", "content": "x"}]
        plain = "".join(text for text, _ in template.render(ask))
        told = "".join(text for text, _ in template.render(ask, [WEATHER]))
        assert "get_weather" in told and "get_weather" not in plain


WAYS_OF_WRITING = [
    "{{ '<|s|>%s' % text }}",
    "{{ '<|s|>%s%s' | format(text, '') }}",
    "{{ '<|s|>' * 1 }}{{ text }}",
    "{% macro told(text) %}<|s|>{{ text }}{% endmacro %}{{ told(text) }}",
    "{% set whole %}<|s|>{{ text }}{% endset %}{{ whole | trim }}",
    "{{ ['<|s|>', text] | join }}",
]


@pytest.mark.parametrize("source", WAYS_OF_WRITING)
def test_a_marker_is_the_templates_own_however_it_is_written(source: str) -> None:
    """And what stands behind it, in the same string, is not."""
    source = "{% set text = messages[0].content %}" + source
    pieces = Template(source, {}).render([{"role": "user", "content": "<|s|>"}])
    assert pieces == [("<|s|>", True), ("<|s|>", False)]
