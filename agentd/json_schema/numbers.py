"""Numbers as they are written: between two limits that are inside, on a grid of finite digits."""

import math
from fractions import Fraction

from agentd.json_schema.bounds import Bounds, Schema, Unfit
from agentd.json_schema.finite import EXACT
from agentd.json_schema.shapes import Goal, Number, lcm

DIGITS = 15  # that a double holds exactly
FINEST = Fraction(1, 10**9)  # of the grid
POINTS = 1000  # of the grid, that a small range should have


def written(what: Number, bounds: Bounds, goal: Goal) -> list[Schema]:
    """Return a number's schema, as a list of one.

    Raises:
        Unfit: no number that fits can be written exactly, or its steps are too many.
    """
    low, high = _limits(what, bounds)
    step = what.step or (Fraction(str(bounds.step)) if bounds.step else None)
    if what.step is not None and what.step.numerator > bounds.multiple:
        raise Unfit(goal[0] if goal else "", f"multiples of {what.step} cannot be honoured")
    if step is None:
        return [_open(what, low, high)]
    while what.step is None and high - low < POINTS * step and step > FINEST:
        step /= 10
    places = _places(step)
    exact = Fraction(10 ** (DIGITS - places) if places else EXACT - 1)  # beyond, digits are lost
    if low <= exact and high >= -exact:
        low, high = max(low, -exact), min(high, exact)
    else:
        step = lcm(step, Fraction(1))
    first, last = math.ceil(low / step) * step, math.floor(high / step) * step
    first += step if what.low_open and first == what.low else 0
    last -= step if what.high_open and last == what.high else 0
    if first > last:
        if low == high == what.low and what.step is None:
            return [{"const": _number(low), "type": "number"}]
        raise Unfit(goal[0] if goal else "", "no number between its limits can be written exactly")
    schema: Schema = {"type": "integer" if step.denominator == 1 else "number"}
    schema |= {"minimum": _number(first), "maximum": _number(last)}
    return [schema if step == 1 else {**schema, "multipleOf": _number(step)}]


def _limits(what: Number, bounds: Bounds) -> tuple[Fraction, Fraction]:
    """Return both limits, with the side's own where there is none, within what is exact."""
    most = Fraction(bounds.integer)
    low, high = what.low, what.high
    if low is None:
        low = -most if high is None or high > -most else high - most
    if high is None:
        high = most if low < most else low + most
    return max(low, Fraction(1 - EXACT)), min(high, Fraction(EXACT - 1))


def _open(what: Number, low: Fraction, high: Fraction) -> Schema:
    """Return the schema of a number of any digits, for servers whose numbers end."""
    outside = what.low_open and low == what.low, what.high_open and high == what.high
    return {
        "type": "number",
        "exclusiveMinimum" if outside[0] else "minimum": _number(low),
        "exclusiveMaximum" if outside[1] else "maximum": _number(high),
    }


def _places(step: Fraction) -> int:
    """Return how many digits a multiple of a step has behind the point."""
    return next(places for places in range(20) if (step * 10**places).denominator == 1)


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
