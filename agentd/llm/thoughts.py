"""Thoughts that models write before their answers, and how they are told from these.

A server that neither masks nor parts thoughts from answers gives both in one text. A thought weighs
decisions that are none yet, so nothing may be taken from it.
"""

import json
import re

# What opens a thought and what closes it, as published chat templates and model cards have them.
PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("◁think▷", "◁/think▷"),
)
# Harmony, as gpt-oss writes it: with its markers, and where a server has left them out.
_HARMONY = (
    (r"<\|channel\|>\s*(?:analysis|commentary)", r"<\|channel\|>\s*final[^<]*(?:<\|[^|]*\|>\w*)*"),
    (r"\A\s*analysis(?=[^\s:])", r"assistant\s*final"),
)
_PATTERNS = [*((re.escape(opens), re.escape(closes)) for opens, closes in PAIRS), *_HARMONY]
_MARK = re.compile(
    "|".join(
        f"(?P<open{number}>{opens})|(?P<close{number}>{closes})"
        for number, (opens, closes) in enumerate(_PATTERNS)
    ),
    re.IGNORECASE,
)


def spoken(answer: str) -> str:
    """Return what of an answer is no thought.

    Of a thought that was cut off nothing is left. Before a closing tag that nothing opened all was
    thought: many templates open the thought themselves. What is one JSON object, the whole answer
    or what follows a thought, is left as it is: its texts may hold such tags.
    """
    kept, at, within = "", 0, ""
    for mark in _MARK.finditer(answer):
        name = mark.lastgroup or ""
        if within and name != within:
            continue
        if not within and _is_object(answer[at:]):
            break
        if not within and name.startswith("open"):
            kept += answer[at : mark.start()]
            within = name.replace("open", "close")
            continue
        kept, within, at = kept if within else "", "", mark.end()
    return kept if within else kept + answer[at:]


def left_open(text: str) -> str:
    """Return what closes the last thought in `text`, or "" where none is open."""
    begun = max(PAIRS, key=lambda pair: text.rfind(pair[0]))
    at = text.rfind(begun[0])
    return begun[1] if at >= 0 and begun[1] not in text[at:] else ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
