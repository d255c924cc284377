"""Random values that are composed of others.

This does not use Hypothesis, whose search repeats itself: of 400 programs 60 were duplicates, most others
were very similar, and simple interactions of two steps never occurred. Programs need few of its strengths:
their values come from small pools, and `compare.shorten` shrinks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

Choice: TypeAlias = Callable[[Random], Any]
"""Makes one value."""


def just(value: Any) -> Choice:
    return lambda random: value


def sampled(pool: Sequence[Any]) -> Choice:
    """One of these values."""
    return lambda random: random.choice(pool)


def one_of(*choices: Choice) -> Choice:
    return lambda random: random.choice(choices)(random)


def weighted(*choices: tuple[int, Choice]) -> Choice:
    """One of these, some more often."""
    return one_of(*(choice for weight, choice in choices for _ in range(weight)))


def tuples(*choices: Choice) -> Choice:
    """A tuple with a value of each."""
    return lambda random: tuple(choice(random) for choice in choices)


def several(choice: Choice, least: int, most: int) -> Choice:
    """A tuple of so many values."""
    return lambda random: tuple(choice(random) for _ in range(random.randint(least, most)))


def mapped(function: Callable[[Any], Any], choice: Choice) -> Choice:
    return lambda random: function(choice(random))


def only(condition: Callable[[Any], bool], choice: Choice) -> Choice:
    """A value that meets a condition; most values must meet it."""

    def choose(random: Random) -> Any:
        while not condition(value := choice(random)):
            pass
        return value

    return choose
