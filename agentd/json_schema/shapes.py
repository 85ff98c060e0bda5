"""What a value may be: shapes of one kind each, and what of two shapes is left where both hold.

A schema is a list of shapes, of which a value has one. Nothing is closed or bounded here: shapes
say what the schema says.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from agentd.json_schema.bounds import Unfit
from agentd.json_schema.document import NEVER

Goal = tuple[str, ...]  # places of a document, all of whose schemas a value has to fit; (): any


@dataclass(frozen=True)
class Values:
    """One of these; null, true and false are values as well."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Number:
    """A number between two, in steps from 0; whole numbers have a step of 1."""

    low: Fraction | None = None
    high: Fraction | None = None
    low_open: bool = False  # the limit itself is outside
    high_open: bool = False
    step: Fraction | None = None

    def meet(self, other: "Number") -> "Number | None":
        """Return what fits both."""
        low, low_open = _upper(self.low, self.low_open, other.low, other.low_open)
        high, high_open = _upper(
            _minus(self.high), self.high_open, _minus(other.high), other.high_open
        )
        steps = [step for step in (self.step, other.step) if step is not None]
        step = steps[0] if len(steps) == 1 else lcm(*steps) if steps else None
        found = Number(low, _minus(high), low_open, high_open, step)
        return None if found.empty else found

    @property
    def empty(self) -> bool:
        """Whether no number, or none of its steps, lies within the limits."""
        low, high, step = self.low, self.high, self.step
        if low is None or high is None:
            return False
        if step is not None:
            low = math.ceil(low / step) * step
            low += step if self.low_open and low == self.low else 0
        return low > high or (low == high and (self.high_open or (self.low_open and step is None)))


def _upper(
    one: Fraction | None, one_open: bool, two: Fraction | None, two_open: bool
) -> tuple[Fraction | None, bool]:
    """Return the higher of two lower limits, and whether it is outside itself."""
    if one is None or two is None or one == two:
        limit = two if one is None else one
        return limit, (one is not None and one_open) or (two is not None and two_open)
    return (one, one_open) if one > two else (two, two_open)


def _minus(limit: Fraction | None) -> Fraction | None:
    return None if limit is None else -limit


def exact(value: float) -> Fraction:
    """Return a number as it is written: 0.1 is a tenth."""
    return Fraction(value) if isinstance(value, int) else Fraction(str(value))


def lcm(one: Fraction, two: Fraction) -> Fraction:
    """Return the smallest number that is a multiple of both."""
    whole = one.denominator * two.denominator
    return Fraction(math.lcm(int(one * whole), int(two * whole)), whole)


@dataclass(frozen=True)
class String:
    """A text, its length in characters; all patterns are found somewhere in it."""

    least: int = 0
    most: int | None = None
    patterns: Goal = ()
    formats: Goal = ()

    def meet(self, other: "String") -> "String | None":
        """Return what fits both."""
        least, most = max(self.least, other.least), _fewer(self.most, other.most)
        if most is not None and least > most:
            return None
        patterns = join(self.patterns, other.patterns)
        return String(least, most, patterns, join(self.formats, other.formats))


@dataclass(frozen=True)
class Array:
    """A list: what its first items are, what all others are."""

    prefix: tuple[Goal, ...] = ()
    rest: Goal = ()
    least: int = 0
    most: int | None = None
    unique: str = ""  # the place that says so
    some: tuple[Goal, ...] = ()  # each is what at least one item has to fit

    def item(self, at: int) -> Goal:
        """Return what the item at a place has to fit."""
        return self.prefix[at] if at < len(self.prefix) else self.rest

    def meet(self, other: "Array") -> "Array | None":
        """Return what fits both."""
        least, most = max(self.least, other.least), _fewer(self.most, other.most)
        if most is not None and least > most:
            return None
        count = max(len(self.prefix), len(other.prefix))
        prefix = tuple(join(self.item(at), other.item(at)) for at in range(count))
        unique = self.unique or other.unique
        some = tuple(dict.fromkeys(self.some + other.some))
        return Array(prefix, join(self.rest, other.rest), least, most, unique, some)


@dataclass(frozen=True)
class Layer:
    """What one schema says of an object's properties."""

    names: Mapping[str, Goal]
    patterns: Mapping[str, Goal]  # for names in which they are found
    rest: Goal  # for all other names


@dataclass(frozen=True)
class Object:
    """An object; each layer holds for it."""

    layers: tuple[Layer, ...] = ()
    required: Goal = ()
    least: int = 0
    most: int | None = None
    keys: Goal = ()  # what each name has to fit, as a text

    @property
    def names(self) -> Goal:
        """Return the names that are told, in their order."""
        return join(*(tuple(layer.names) for layer in self.layers), self.required)

    @property
    def patterns(self) -> Goal:
        """Return the patterns of names."""
        return join(*(tuple(layer.patterns) for layer in self.layers))

    @property
    def rest(self) -> Goal:
        """Return what a property has to fit whose name is not told and in no pattern."""
        return join(*(layer.rest for layer in self.layers))

    def meet(self, other: "Object") -> "Object | None":
        """Return what fits both."""
        least, most = max(self.least, other.least), _fewer(self.most, other.most)
        if most is not None and least > most:
            return None
        layers = (*self.layers, *(one for one in other.layers if one not in self.layers))
        required = join(self.required, other.required)
        return Object(layers, required, least, most, join(self.keys, other.keys))


@dataclass(frozen=True)
class Shape:
    """A kind of value, and what else is said of it."""

    what: Values | Number | String | Array | Object
    # 2: a type or enum says it; 1: a schema without a type speaks of other kinds only; 0: neither.
    told: int = 0
    barred: tuple[tuple[str, str], ...] = ()  # places that it must not fit, and who says so
    refused: tuple[Unfit, ...] = ()  # what cannot be honoured, once it is to be answered


def join(*goals: Goal) -> Goal:
    """Return all that is in these, each once."""
    if len(goals) == 1:
        return goals[0]
    found = tuple(dict.fromkeys(one for goal in goals for one in goal))
    return (NEVER,) if NEVER in found else found


def _fewer(one: int | None, two: int | None) -> int | None:
    return min((limit for limit in (one, two) if limit is not None), default=None)


def identity(value: Any) -> Any:
    """Return what is equal for values that JSON takes for equal: 1 and 1.0, but not 1 and true."""
    if isinstance(value, dict):
        return frozenset((key, identity(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ("list", *map(identity, value))
    return ("truth", value) if isinstance(value, bool) else value


def merged(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Return shapes with neighbours that are equal once, and neighbouring values as one."""
    found: list[Shape] = []
    for shape in shapes:
        last = found[-1] if found else None
        both = (last.what, shape.what) if last else ()
        if last and all(isinstance(what, Values) for what in both) and same(last, shape):
            every = {identity(one): one for what in both for one in what.values}  # type: ignore[union-attr]
            found[-1] = replace(last, what=Values(tuple(every.values())))
        elif shape != last:
            found.append(shape)
    return tuple(found)


def same(one: Shape, two: Shape) -> bool:
    """Say whether the same is said of two shapes, whatever they are."""
    return (one.told, one.barred, one.refused) == (two.told, two.barred, two.refused)
