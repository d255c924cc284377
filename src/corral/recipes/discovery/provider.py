"""Picking an instance of a service, again and again."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from corral import errors
from corral.errors import shown
from corral.recipes.kit.context import RecipeContext
from corral.recipes.kit.decoded_children import Decode, DecodedChildren
from corral.watch.tree.kept import KeptCopy

from .instance import ServiceInstance
from .strategies import Strategy

__all__ = ["ServiceProvider"]

logger = logging.getLogger("corral.recipes")

# For how long an instance is left out after an error, in seconds: at first, and at most.
FIRST_TIME_OUT = 1.0
MOST_TIME_OUT = 60.0
# After how long without an error its earlier errors are forgotten, in seconds from its return.
FORGET_AFTER = 60.0


class _TimeOut:
    """Until when an instance is left out."""

    __slots__ = ("length", "until")

    def __init__(self) -> None:
        self.length = 0.0
        self.until = float("-inf")

    def is_over(self, now: float) -> bool:
        return now >= self.until

    def begin(self, now: float) -> None:
        """The instance has failed at `now`."""
        again = now < self.until + FORGET_AFTER
        self.length = min(2 * self.length, MOST_TIME_OUT) if again else FIRST_TIME_OUT
        self.until = now + self.length


class ServiceProvider:
    """Picks instances of a service: ``async with services.provider("web") as web:``.

    Entering waits until the instances are known, also if there are none. Until the block is left the provider
    keeps itself current, by one server watch that all providers and watches of the service in this client
    share. `pick` sends nothing and never waits.

    **Left out**: an instance that is disabled is never picked. One for which `note_error` was called is left
    out for 1 second, then for 2, 4 and so on up to 60 seconds, each time that it fails again. Its errors are
    forgotten when `note_success` is called, when it has been back for 60 seconds without an error, and when
    it is gone. Errors that are noted while it is left out do not count, since the requests were probably sent
    before. If all instances are left out, `pick` chooses among all of them, as if none were.

    **On cancel** of entering nothing is left. **On loss** of the connection entering waits, without a limit;
    afterwards the provider works with the last known instances, and `is_current` is false. It does so also if
    it cannot be kept current for another reason, which is logged; it then tries again as `Cache` does.

    Entering raises what `Cache` does. Znodes that are not the JSON of an instance are left out, and logged;
    those that we may not read are left out. Different tasks may enter and leave; use it in the event loop of
    the client.
    """

    def __init__(
        self,
        context: RecipeContext,
        name: str,
        kept: KeptCopy,
        decode: Decode[ServiceInstance],
        strategy: Strategy,
    ) -> None:
        self.name = name
        self._session = context.session
        self._kept = kept
        self._children = DecodedChildren(decode)
        self._strategy = strategy
        self._instances: tuple[ServiceInstance, ...] = ()
        self._enabled: tuple[ServiceInstance, ...] = ()
        self._time_outs: dict[str, _TimeOut] = {}  # by id
        self._candidates: tuple[ServiceInstance, ...] | None = None  # valid until `_valid_until`
        self._valid_until = 0.0
        self._failure: BaseException | None = None  # that was logged

    async def __aenter__(self) -> Self:
        await self._kept.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the provider, as leaving ``async with`` does. Closing it again has no effect."""
        self._kept.close()

    @property
    def is_current(self) -> bool:
        """Whether the client is connected and every change that it has heard of is known here."""
        return self._kept.is_current

    @property
    def instances(self) -> tuple[ServiceInstance, ...]:
        """All instances, also those that are disabled or left out, in a stable order. Raises what `pick`
        does, but never `NoInstance`."""
        self._refresh()
        return self._instances

    def pick(self) -> ServiceInstance:
        """One of the instances, as the strategy chooses.

        Raises `NoInstance` if there is none that is enabled, `SessionError` when the client is closed or
        cannot have a session any more, `UsageStateError` outside the ``async with`` block, and what the
        strategy raises.
        """
        self._refresh()
        now = self._session.clock()
        if self._candidates is None or now >= self._valid_until:
            self._choose_candidates(now)
        if not self._candidates:
            raise errors.NoInstance(self.name, len(self._instances))
        return self._strategy(self._candidates)

    def note_error(self, instance: ServiceInstance) -> None:
        """This instance has failed: leave it out for a while, longer each time; see the class. One that is
        gone is ignored."""
        self._refresh()
        id = _id_of(instance)
        if not any(each.id == id for each in self._instances):
            return
        now = self._session.clock()
        time_out = self._time_outs.setdefault(id, _TimeOut())
        if time_out.is_over(now):
            time_out.begin(now)
            self._candidates = None
            logger.info(
                "service %s: instance %s is left out for %g s after an error", self.name, id, time_out.length
            )

    def note_success(self, instance: ServiceInstance) -> None:
        """This instance has answered: forget its errors, and do not leave it out any more."""
        self._refresh()
        if self._time_outs.pop(_id_of(instance), None) is not None:
            self._candidates = None

    def _choose_candidates(self, now: float) -> None:
        left_out = {id: time_out.until for id, time_out in self._time_outs.items() if time_out.until > now}
        if not left_out:
            self._candidates = self._enabled
        else:
            available = tuple([each for each in self._enabled if each.id not in left_out])
            self._candidates = available or self._enabled
        self._valid_until = min(left_out.values(), default=float("inf"))

    def _refresh(self) -> None:
        """Take in what has changed."""
        self._session.ensure_loop()
        failure = self._kept.failure
        if failure is not self._failure:
            self._failure = failure
            if failure is not None and not isinstance(failure, errors.SessionError):
                logger.warning("service %s: its instances are not kept current: %s", self.name, failure)
        if isinstance(failure, errors.SessionError):
            raise errors.fresh(failure)
        if self._children.take(self._kept.copy, self._kept.cursor) is None:
            return
        self._instances = self._children.values
        self._enabled = tuple([each for each in self._instances if each.enabled])
        self._candidates = None
        if self._time_outs:
            ids = {each.id for each in self._instances}
            self._time_outs = {id: each for id, each in self._time_outs.items() if id in ids}

    def __repr__(self) -> str:
        if not self._kept.is_open:
            return f"<ServiceProvider of {self.name!r}, not open>"
        state = "current" if self.is_current else "not current"
        return f"<ServiceProvider of {self.name!r}, {state}>"


def _id_of(instance: ServiceInstance) -> str:
    if not isinstance(instance, ServiceInstance):
        raise errors.UsageTypeError(f"pass a corral.ServiceInstance that was picked, not {shown(instance)}")
    return instance.id
