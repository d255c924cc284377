"""Callbacks for each new session of a client."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

from .machine import Machine

logger = logging.getLogger("corral.session")


class _Subscription:
    __slots__ = ("callback", "called_with")

    def __init__(self, callback: Callable[[int], None]) -> None:
        self.callback = callback
        self.called_with = 0


class NewSessionCallbacks:
    """Calls each callback once for each session, with its id. None is called once the client is being
    closed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._established = 0
        self._subscriptions: dict[_Subscription, None] = {}

    def add(self, callback: Callable[[int], None], loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Call `callback` from now on; in the next turn of the loop if there is a session now. Returns a
        function that removes it."""
        subscription = _Subscription(callback)
        self._subscriptions[subscription] = None
        loop.call_soon(self._call, subscription)
        return functools.partial(self._remove, subscription)

    def established(self) -> None:
        """A server accepts the session's requests; perhaps it did before."""
        self._established = self._machine.session_id
        for subscription in tuple(self._subscriptions):
            self._call(subscription)

    def _remove(self, subscription: _Subscription) -> None:
        self._subscriptions.pop(subscription, None)

    def _call(self, subscription: _Subscription) -> None:
        session_id, machine = self._established, self._machine
        is_over = machine.closing or machine.session_id != session_id
        if is_over or subscription.called_with == session_id or subscription not in self._subscriptions:
            return
        subscription.called_with = session_id
        try:
            subscription.callback(session_id)
        except Exception as defect:  # the other callbacks and the session go on
            logger.error("a callback for new sessions failed; please report this", exc_info=defect)
