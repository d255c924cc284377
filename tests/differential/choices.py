"""Random values that are put together from others.

This is not Hypothesis, whose search repeats itself: of 400 programs 60 were the same as another and most of the
rest near to one, and simple things that need two steps to meet never happened. Programs need little of what it
is good at: their values come from small pools, and `compare.shorten` shrinks them.
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
    """One of each."""
    return lambda random: tuple(choice(random) for choice in choices)


def several(choice: Choice, least: int, most: int) -> Choice:
    """A tuple of so many."""
    return lambda random: tuple(choice(random) for _ in range(random.randint(least, most)))


def mapped(function: Callable[[Any], Any], choice: Choice) -> Choice:
    return lambda random: function(choice(random))


def only(condition: Callable[[Any], bool], choice: Choice) -> Choice:
    """What fulfils a condition, which most does."""

    def choose(random: Random) -> Any:
        while not condition(value := choice(random)):
            pass
        return value

    return choose
