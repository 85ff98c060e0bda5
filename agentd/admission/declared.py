"""What an agent's class declares, before anything is made of it: of the right kind, by its names.

Else a class's name in quotes, or one forgotten comma, is a traceback at the first event.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from agentd.agent import Agent
from agentd.errors import ConfigError
from agentd.events import EVENT_TYPE, SYSTEM_TYPES

if TYPE_CHECKING:
    from agentd.llm.union import Union

# Its methods that the worker calls, with the arguments that it gives; the rest runs in the check.
CALLED = {
    "begin": ("event", "results"),
    "opening": ("event",),
    "barred": (),
    "planned": ("results",),
    "candidates": (),
    "dispatch": ("decision",),
    "finish": ("done", "event", "results"),
}
MODELS = ("accepts",)  # Pydantic models by name, as `publishes`
SETS = ("idempotent", "reads", "labels")  # of names


def check_declared(cls: type[Agent[Any]], publishes: Any, where: str) -> None:
    """Check an agent's class variables; `publishes` as `published` returned it for its params.

    Raises:
        ConfigError: one is of the wrong kind; `where` is its module.
    """
    declared = {"publishes": publishes, **{name: getattr(cls, name) for name in MODELS}}
    for name, value in declared.items():
        check_models(name, value, where)
    for kind in publishes:
        if not EVENT_TYPE.fullmatch(kind) or kind.startswith(SYSTEM_TYPES):
            own = "a type of the system" if EVENT_TYPE.fullmatch(kind) else "no event type"
            raise ConfigError(
                f"`publishes` has {kind!r}, which is {own}",
                where=where,
                hint='write dotted lower case, such as "text.counted", and begin with another word '
                f"than {', '.join(SYSTEM_TYPES)}",
            )
    check_list("volatile", cls.volatile, where)
    for name in SETS:
        if not _names(value := getattr(cls, name)):
            raise ConfigError(
                f"`{name}` is {value!r}, and no set of names",
                where=where,
                hint=f'write `{name} = frozenset({{"CountWords"}})`',
            )
    for name, given in CALLED.items():
        _check_method(cls, name, given, where)


def check_labels(fields: Iterable[str], union: "Union", where: str) -> dict[str, list[str]]:
    """Return the labels by field: what is declared must be enums of the agent's own classes.

    Raises:
        ConfigError: one is not; `where` is its module.
    """
    from agentd.tools.declared_tools import REGISTRY

    found = {}
    for field in sorted(fields):
        name = field.partition(".")[0]
        if name in REGISTRY:
            raise ConfigError(
                f"`labels` names {field!r}, but {name} is a shared tool",
                where=where,
                hint="name fields of the agent's own classes: a tool's argument is no label",
            )
        try:
            found[field] = union.labels(field)
        except ConfigError as error:
            raise ConfigError(error.what, where=where, hint=error.hint) from error
    return found


def _check_method(cls: type[Agent[Any]], name: str, given: Sequence[str], where: str) -> None:
    """Check that the worker can call a method with these arguments."""
    wrong = _uncallable(cls, name, given)
    if wrong:
        raise ConfigError(
            f"`{name}` {wrong}",
            where=where,
            hint=f"write `def {name}({', '.join(('self', *given))})`",
        )


def _uncallable(cls: type[Agent[Any]], name: str, given: Sequence[str]) -> str:
    """Return why a method cannot be called so, "" where it can, or nobody knows before."""
    found = inspect.getattr_static(cls, name)
    bound = isinstance(found, staticmethod | classmethod)
    method = getattr(cls, name) if bound else found
    if not callable(method):
        return f"is {found!r}, and no method"
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return "is asynchronous, and nobody awaits it"
    if inspect.isgeneratorfunction(method):
        return "yields, and only what it returns counts"
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*([] if bound else ["self"]), *given)
    except TypeError as error:
        return f"cannot be called as it will be: {error}"
    return ""


def check_params(cls: type[Agent[Any]], where: str) -> None:
    """Check that an agent's `Params` can check parameters.

    Raises:
        ConfigError: it is no Pydantic model.
    """
    if not (isinstance(cls.Params, type) and issubclass(cls.Params, BaseModel)):
        raise ConfigError(
            f"`Params` is {cls.Params!r}, and no Pydantic model",
            where=where,
            hint="name a class made of BaseModel, with a field for each parameter",
        )


def check_list(name: str, value: Any, where: str) -> None:
    """Check what is to list names, in whatever order.

    Raises:
        ConfigError: it is something else, such as one name: brackets alone make no list.
    """
    if not _names(value, ordered=True):
        raise ConfigError(
            f"`{name}` is {value!r}, and no list of names",
            where=where,
            hint=f'write `{name} = ("...",)`, with the comma',
        )


def _names(value: Any, *, ordered: bool = False) -> bool:
    """Whether this is a set of text, or with `ordered` also a list or a tuple of it."""
    kind = isinstance(value, AbstractSet) or (ordered and isinstance(value, tuple | list))
    return kind and all(isinstance(item, str) for item in value)


def check_models(name: str, value: Any, where: str) -> None:
    """Check what is to be Pydantic models by name.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"`{name}` is {value!r}, and no table of Pydantic models",
            where=where,
            hint=f'write `{name} = {{"...": TheModel}}`',
        )
    for key, model in value.items():
        if isinstance(key, str) and isinstance(model, type) and issubclass(model, BaseModel):
            continue
        raise ConfigError(
            f"`{name}` has {model!r} for {key!r}, which is no Pydantic model",
            where=where,
            hint="name a class made of BaseModel, without quotes",
        )
