"""Tool calls: how templates write them, what the mask allows, how an answer is read."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.model_server.calls import Refused
from agentd.model_server.grammar.mask import AnswerMask, CallMask
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.tool_calls import (
    MARKS,
    OWN_FORM,
    CallReader,
    Form,
    OfferedTool,
    ToolChoice,
)
from tests import chat_templates
from tests.wanting import allows

WEATHER = OfferedTool(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 30},
            "days": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["city", "days"],
    },
    "Tell the weather",
)
TIME = OfferedTool("get_time", {"type": "object", "properties": {}, "additionalProperties": False})
TOOLS = [WEATHER, TIME]
BOTH = ToolChoice(("get_weather", "get_time"))
REQUIRED = ToolChoice(("get_weather", "get_time"), required=True)


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelLanguage]:
    """A tiny model's language with each kind of template."""
    return {
        kind: ModelLanguage(chat_templates.make(kind, tmp_path_factory.mktemp(kind)))
        for kind in chat_templates.KINDS
    }


QWEN_FORM = Form(
    '<tool_call>\n{"name": "', '", "arguments": ', "<tool_call>", spaced=True, native=True
)
FORMS = {
    "qwen": QWEN_FORM,
    "llama": Form('{"name": "', '", "parameters": ', native=True),
    "gemma": OWN_FORM,
    "no_system": OWN_FORM,
    "mistral": Form(f'{MARKS[0]} [{{"name": "', '", "arguments": ', MARKS[0], native=True),
    "mistral_new": Form(MARKS[0], MARKS[1], MARKS[0], native=True),
    "text_arguments": Form(
        QWEN_FORM.before, QWEN_FORM.between, "<tool_call>", native=True, text_arguments=True
    ),
    "generation": QWEN_FORM,
    "xml_arguments": OWN_FORM,  # no JSON there that could be masked
}


@pytest.mark.parametrize("kind", FORMS)
def test_the_form_of_calls_is_learned_from_the_template(
    languages: dict[str, ModelLanguage], kind: str
) -> None:
    """A model calls tools as it was trained to; one that was not is told how, in words."""
    assert languages[kind].form == FORMS[kind]


def history(tool: str, text: str) -> list[dict[str, Any]]:
    call = {
        "id": "call00000",
        "type": "function",
        "function": {"name": tool, "arguments": {"city": text, text: [text, {text: 1}]}},
    }
    return [
        {"role": "user", "content": f"hello {text}"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00000", "name": tool, "content": f"see {text}!"},
    ]


def tools_saying(text: str) -> list[OfferedTool]:
    schema = {
        "type": "object",
        "description": text,
        "properties": {text: {"type": "string", "enum": [text], "default": {"id": text}}},
    }
    return [OfferedTool("get_weather", schema, f"about {text}")]


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_nothing_from_outside_becomes_a_marker(
    languages: dict[str, ModelLanguage], kind: str
) -> None:
    """Descriptions, names in schemas, arguments and results are text, whatever they spell."""
    language = languages[kind]
    honest = language.encode_chat(history("get_weather", "zq"), tools_saying("zq")).tokens
    markers = [name for one in chat_templates.KINDS.values() for name in (*one[1], *one[2])]
    for marker in sorted(set(markers)):
        forged = language.encode_chat(history("get_weather", marker), tools_saying(marker)).tokens
        for number in language._markers:
            assert forged.count(number) == honest.count(number), marker
        said = language.decode(forged).decode("utf-8", "agentd.marks")
        assert f"hello {marker}" in said  # and nothing is lost
        told = (
            said if language.form.native else said.replace("\\u003c", "<").replace("\\u003e", ">")
        )
        assert told.count(marker) >= honest_count(language, honest) - 1


def honest_count(language: ModelLanguage, tokens: Sequence[int]) -> int:
    return language.decode(tokens).decode("utf-8", "agentd.marks").count("zq")


@pytest.mark.parametrize("kind", [kind for kind in chat_templates.KINDS if "xml" not in kind])
def test_text_is_tokenised_across_its_seams(languages: dict[str, ModelLanguage], kind: str) -> None:
    """What was put together of pieces has the tokens of the whole text, as in training."""
    language = languages[kind]
    messages, tools = history("get_weather", 'a "b"\n'), tools_saying("the, in: her")
    tokens = language.encode_chat(messages, tools).tokens
    text = language._marked.decode(tokens, skip_special_tokens=False)
    assert tokens == language._marked.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_a_prompt_is_what_the_template_writes(
    languages: dict[str, ModelLanguage], kind: str
) -> None:
    """Hidden or not makes no difference to honest texts: quotes, lines, nesting, other scripts."""
    language = languages[kind]
    messages, tools = history("get_weather", 'a "b"\\\n\té日'), [*tools_saying('x "y"\n'), TIME]
    tokens = language.encode_chat(messages, tools).tokens
    wanted = chat_templates.rendered(kind, language, messages, tools)
    assert language._marked.decode(tokens, skip_special_tokens=False) == wanted


def test_a_conversation_grows_at_its_end_only(languages: dict[str, ModelLanguage]) -> None:
    """Rendered again with a call and its result, the earlier prompt's tokens are a beginning."""
    for kind in ("llama", "gemma"):
        language = languages[kind]
        messages = history("get_weather", "x")
        first = language.encode_chat(messages[:1], TOOLS).tokens
        whole = language.encode_chat(messages, TOOLS).tokens
        assert whole[: len(first)] == first


def test_a_call_in_the_past_has_the_tokens_that_were_generated(
    languages: dict[str, ModelLanguage],
) -> None:
    """The next turn finds the last one's prompt cache: arguments are spaced as in the template."""
    language = languages["llama"]
    arguments = {"city": "Bern", "days": 3}
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call00000", "type": "function", "function": function}
    asked = [{"role": "user", "content": "hi"}]
    prompt = language.encode_chat(asked, TOOLS).tokens
    again = language.encode_chat(
        [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}], TOOLS
    ).tokens
    mask = language.call_mask(TOOLS, REQUIRED)
    generated = mask.forced()
    text = '{"name": "get_weather", "parameters": {"city": "Bern", "days": 3}'
    while not mask.finished:
        rest = text[len(language.decode(generated)) :]
        token = language.grammars.tokenizer.tokenize_str(rest)[0]
        mask.accept(token)
        generated += [token, *mask.forced()]
    assert again[: len(prompt) + len(generated)] == [*prompt, *generated]


def walk(language: ModelLanguage, mask: Any, budget: int, seed: int) -> tuple[str, bool]:
    """Go at random through a mask; return the text, and whether it ended by itself."""
    choose = random.Random(seed)
    tokens = list(mask.forced())
    while not mask.finished and len(tokens) < budget:
        bits = mask.allowed()
        legal = [number for number in range(len(bits) * 8) if allows(bits, number)]
        token = choose.choice(legal)
        if token in language.end_tokens:
            return language.decode(tokens).decode("utf-8", "agentd.marks"), True
        mask.accept(token)
        tokens += [token, *mask.forced()]
    ended = mask.finished
    tokens += mask.close()
    return language.decode(tokens).decode("utf-8", "agentd.marks"), ended


def read(form: Form, text: str) -> tuple[str, str | None, str]:
    reader = CallReader(form)
    part = reader.feed(text, last=True)
    return part.content, reader.name, part.arguments


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_a_required_call_is_legal_whatever_is_sampled(
    languages: dict[str, ModelLanguage], kind: str
) -> None:
    """Any walk, also one that is cut anywhere, is one call of one of the tools and nothing else."""
    language = languages[kind]
    seen = set()
    for seed in range(40):
        text, _ended = walk(language, language.call_mask(TOOLS, REQUIRED), seed * 3, seed)
        content, name, arguments = read(language.form, text)
        assert content == ""
        seen.add(name)
        found = json.loads(arguments)
        if name == "get_weather":
            assert list(found) == ["city", "days"]
            assert len(found["city"]) <= 30 and 0 <= found["days"] <= 9
        else:
            assert (name, found) == ("get_time", {})
    assert seen == {"get_weather", "get_time"}


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_a_named_tool_is_the_only_one(languages: dict[str, ModelLanguage], kind: str) -> None:
    """Forced to one tool with no arguments, nothing is left to be sampled."""
    language = languages[kind]
    mask = language.call_mask(TOOLS, ToolChoice(("get_time",), required=True))
    text = language.decode(mask.forced()).decode("utf-8", "agentd.marks") + language.decode(
        mask.close()
    ).decode("utf-8", "agentd.marks")
    assert mask.finished
    assert read(language.form, text) == ("", "get_time", "{}")


PROSE = (
    'He said "no" and left. <b>Bold</b>, [1] and {"name": 1, "json": [1, 2]}!\n\n'
    "\tÜber 1000 € → ✓ 日本語 🙂 <tool [TOOL {\n" * 3
)


def spell(language: ModelLanguage, text: str) -> list[int]:
    """Tokenise, with markers for the form's marks, and none for what can be spelled."""
    numbers = {shown: n for shown, n in language.grammars._written.items() if shown in MARKS}
    tokens: list[int] = []
    for part in re.split(f"([{''.join(MARKS)}])", text):
        spelled = language.grammars.tokenizer.tokenize_str
        tokens += [numbers[part]] if part in numbers else spelled(part)
    return tokens


@pytest.mark.parametrize("kind", chat_templates.KINDS)
@pytest.mark.parametrize("choice", [BOTH, ToolChoice(())])
def test_free_text_is_not_touched(
    languages: dict[str, ModelLanguage], kind: str, choice: ToolChoice
) -> None:
    """With tools at hand, or forbidden, any text can be said, and ended, token by token."""
    language = languages[kind]
    mask = language.call_mask(TOOLS, choice)
    assert mask.forced() == []
    for token in spell(language, PROSE):
        assert allows(mask.allowed(), token)
        mask.accept(token)
        assert mask.forced() == []
    assert all(allows(mask.allowed(), end) for end in language.end_tokens)
    assert mask.close() == []
    # What is forbidden in the middle of a text: bytes that begin no character, and markers that
    # calls are written with but do not begin with, or that begin one where that is forbidden.
    bits, form = mask.allowed(), language.form
    for number in range(language.vocabulary):
        data = language.grammars.bytes_of(number).decode("utf-8", "agentd.marks")
        if number in language.grammars._markers:
            begins = data == form.trigger and bool(choice.names)
            written = bool(data) and data in form.before + form.between
            assert allows(bits, number) == (begins or not written)
        elif not allows(bits, number):
            assert data[:1] in ("", "\ufffd", *MARKS), data  # 0xff shows as nothing


@pytest.mark.parametrize("kind", [*chat_templates.KINDS, "smollm2"])
def test_the_kept_mask_of_text_is_the_right_one(
    languages: dict[str, ModelLanguage], kind: str, smollm2: Path
) -> None:
    """Masks of text are computed once and kept: at each place it is what the compiler says."""
    language = languages.get(kind) or ModelLanguage(smollm2)
    choose = random.Random(7)
    words = ["the ", "<tool", "_call", ">", "{", '"name"', ": ", '"', "é", "🙂", " ", "\n", "x"]
    kept = 0
    for _ in range(15):
        mask = language.call_mask(TOOLS, BOTH)
        assert isinstance(mask, CallMask)
        text = "".join(choose.choices(words, k=12)).replace("<tool_call>", "")
        for token in spell(language, text):
            bits = mask.allowed()
            assert bits == AnswerMask.allowed(mask)
            kept += mask._reader.plain
            if not allows(bits, token):
                break
            mask.accept(token)
            if mask.forced():
                break
    assert kept > 30


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_text_turns_into_a_call(languages: dict[str, ModelLanguage], kind: str) -> None:
    """Once a call has begun only a call of a known tool is legal, and it ends the answer."""
    language = languages[kind]
    form = language.form
    before = "Let me see. " if form.trigger else ""
    mask = language.call_mask(TOOLS, BOTH)
    begun = spell(language, before + form.opening)
    for token in begun:
        assert allows(mask.allowed(), token)
        mask.accept(token)
    assert not any(allows(mask.allowed(), end) for end in language.end_tokens)
    text = language.decode([*begun, *mask.forced()]).decode("utf-8", "agentd.marks")
    while not mask.finished:
        bits = mask.allowed()
        rest = f'{before}{form.before}get_weather{form.between}{{"city": "Bern", "days": 2}}'
        token = spell(language, rest[len(text) :])[0]
        assert allows(bits, token)
        mask.accept(token)
        text += language.decode([token, *mask.forced()]).decode("utf-8", "agentd.marks")
    content, name, arguments = read(form, text)
    assert content == before.rstrip()
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Bern", "days": 2})


def test_text_that_is_cut_inside_a_character_stays_cut(
    languages: dict[str, ModelLanguage],
) -> None:
    """Out of tokens in free text nothing is made up, as without tools."""
    mask = languages["qwen"].call_mask(TOOLS, BOTH)
    mask.accept(languages["qwen"].grammars.tokenizer.tokenize_str("é")[0])
    assert mask.close() == []


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_a_forbidden_call_cannot_begin(languages: dict[str, ModelLanguage], kind: str) -> None:
    """With tool_choice "none" what would begin a call cannot be completed."""
    language = languages[kind]
    mask = language.call_mask(TOOLS, ToolChoice(()))
    tokens = spell(language, language.form.opening)
    for token in tokens[:-1]:
        assert allows(mask.allowed(), token)
        mask.accept(token)
    assert not allows(mask.allowed(), tokens[-1])


def test_random_text_or_call(languages: dict[str, ModelLanguage]) -> None:
    """Whatever is sampled, an answer is text or a legal call; cut anywhere it is still that."""
    language = languages["mistral_new"]  # a special token is met by chance
    calls = 0
    for seed in range(120):
        text, _ended = walk(language, language.call_mask(TOOLS, BOTH), 80, seed)
        content, name, arguments = read(language.form, text)
        assert not set(MARKS) & set(content)
        if name is not None:
            calls += 1
            assert name in BOTH.names
            json.loads(arguments)
    assert 10 < calls < 110


def test_an_answer_of_a_schema_or_a_call(languages: dict[str, ModelLanguage]) -> None:
    """With response_format and tools an answer is one or the other, never plain text."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    for kind in ("qwen", "mistral", "gemma"):
        language = languages[kind]
        names: set[str | None] = set()
        for seed in range(60):
            mask = language.call_mask(TOOLS, BOTH, schema)
            content, name, arguments = read(language.form, walk(language, mask, 60, seed)[0])
            names.add(name)
            answer = json.loads(content if name is None else arguments)
            assert name is not None or answer in ({"ok": True}, {"ok": False})
        assert None in names and len(names) > 1
    with pytest.raises(Refused, match="bare JSON"):
        languages["llama"].call_mask(TOOLS, BOTH, schema)
    assert languages["llama"].call_mask(TOOLS, REQUIRED, schema).forced()
    assert languages["llama"].call_mask(TOOLS, ToolChoice(()), schema).forced()


@pytest.mark.parametrize("form", [*FORMS.values()])
@pytest.mark.parametrize("before", ["", "Sure,\n one moment. \n", "<tool", '{"nam', " "])
def test_an_answer_is_read_the_same_in_any_pieces(form: Form, before: str) -> None:
    """Streamed character by character or whole: same content, same call, nothing too early."""
    call = f'{form.before}get_weather{form.between}{{"a": "<tool_call>"}}'
    for text in (before + call, before, before + form.opening[:-1], before + "x" + form.before):
        for size in (1, 2, 3, 7, 1000):
            reader = CallReader(form)
            parts = [
                reader.feed(text[at : at + size], last=at + size >= len(text))
                for at in range(0, max(1, len(text)), size)
            ]
            whole = (
                "".join(part.content for part in parts),
                reader.name,
                "".join(part.arguments for part in parts),
            )
            assert whole == read(form, text)
    if form.trigger or not before:
        assert read(form, before + call) == (before.rstrip(), "get_weather", '{"a": "<tool_call>"}')


def test_without_tools_marks_are_no_text() -> None:
    """A model that emits call tokens on its own shows nothing of them, as of any special token."""
    assert CallReader(None).feed(f"a{MARKS[0]}b").content == "ab"


def test_a_tools_schema_is_refused_by_its_place(languages: dict[str, ModelLanguage]) -> None:
    """What cannot be honoured names the tool and the keyword."""
    bad = OfferedTool(
        "bad", {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}
    )
    with pytest.raises(Refused) as refused:
        languages["qwen"].call_mask([TIME, bad], ToolChoice(("get_time", "bad")))
    assert refused.value.message.startswith("tools.1.function.parameters of 'bad' at /")
    assert refused.value.param == "tools"


def test_a_form_may_hold_any_characters(languages: dict[str, ModelLanguage]) -> None:
    """What a template writes around a call is taken literally: quotes, other scripts, brackets."""
    grammars = languages["llama"].grammars
    form = Form('<▁tool▁begin>"\\\t{/', '日é": ', "<▁tool▁begin>")
    mask = grammars.call_mask(form, [TIME], ToolChoice(("get_time",)))
    for token in grammars.tokenizer.tokenize_str(f"so: {form.trigger}"):
        mask.accept(token)
    rest = b"".join(map(grammars.bytes_of, mask.forced())).decode("utf-8", "agentd.marks")
    assert mask.finished
    assert read(form, f"so: {form.trigger}{rest}") == ("so:", "get_time", "{}")


def test_all_tools_together_are_bounded(languages: dict[str, ModelLanguage]) -> None:
    """Many large schemas in one request are refused before any is compiled."""
    large = {**TIME.parameters, "description": "x" * 100_000}
    tools = [OfferedTool(f"t{number}", large) for number in range(3)]
    with pytest.raises(Refused, match="together more than"):
        languages["qwen"].call_mask(tools, ToolChoice(("t0",)))


def test_a_template_that_fails_is_a_refusal(languages: dict[str, ModelLanguage]) -> None:
    """Whatever a template raises for odd messages is the request's fault, not the server's."""
    two = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": history("t", "x")[1]["tool_calls"] * 2},
    ]
    with pytest.raises(Refused, match="single tool-calls"):
        languages["llama"].encode_chat(two)
    with pytest.raises(Refused, match="refuses"):
        languages["mistral"].encode_chat([{"role": "user", "content": None}], TOOLS)
