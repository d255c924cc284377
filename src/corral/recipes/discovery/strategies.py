"""How a provider chooses among instances."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from .instance import ServiceInstance

__all__ = ["Random", "RoundRobin", "Sticky", "Strategy"]

Strategy: TypeAlias = Callable[[Sequence[ServiceInstance]], ServiceInstance]
"""Chooses one of the instances, of which there is at least one. They are in a stable order."""


class RoundRobin:
    """Each instance in turn. It starts at a random one, so that many clients do not all start at the same."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._next = (rng or random.Random()).randrange(2**32)

    def __call__(self, instances: Sequence[ServiceInstance]) -> ServiceInstance:
        self._next += 1
        return instances[self._next % len(instances)]

    def __repr__(self) -> str:
        return "RoundRobin()"


class Random:
    """Any instance, each with the same probability."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def __call__(self, instances: Sequence[ServiceInstance]) -> ServiceInstance:
        return self._rng.choice(instances)

    def __repr__(self) -> str:
        return "Random()"


class Sticky:
    """The same instance again, until it is gone, disabled, or left out because of an error; then another, at
    random. Use one for each provider."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._id: str | None = None

    def __call__(self, instances: Sequence[ServiceInstance]) -> ServiceInstance:
        for instance in instances:
            if instance.id == self._id:
                return instance
        chosen = self._rng.choice(instances)
        self._id = chosen.id
        return chosen

    def __repr__(self) -> str:
        return f"Sticky(), at {self._id!r}" if self._id is not None else "Sticky()"
