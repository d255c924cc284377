"""Leaving a server that still answers, without losing an answer."""

from __future__ import annotations

from typing import Any

from corral.wire import messages

from .connection import Connection
from .machine import Machine
from .requests import OwnRequest
from .states import ConnectionPhase

__all__ = ["depart"]


def depart(machine: Machine, connection: Connection, now: float, why: str) -> None:
    """Drop the connection as soon as everything that was sent on it is answered; `why` says for what reason.

    From now on the users' requests wait for the next connection. One more read is sent behind those in
    flight: a session's answers come in order, so its answer is the last one. Heartbeats go on meanwhile, and
    one may stay unanswered. A server that falls silent is left as at any other time.
    """
    if machine.phase is not ConnectionPhase.UP:
        connection.drop(why)  # nothing is in flight
        return
    read = OwnRequest(
        messages.EXISTS, messages.encode_exists("/", False), None, _LastAnswer(machine, connection, why)
    )
    machine.requests.send_first(read, now)
    connection.send_last()


class _LastAnswer:
    """Waits for the answer behind which the connection is dropped."""

    def __init__(self, machine: Machine, connection: Connection, why: str) -> None:
        self._machine = machine
        self._connection = connection
        self._why = why

    def done(self) -> bool:
        """Whether the connection is lost already: then the read is not sent on the next one."""
        return not self._connection.is_open

    def set_result(self, result: Any, /) -> None:
        """It has come."""
        self._machine.leave(self._why)

    def set_exception(self, error: BaseException, /) -> None:
        """It has come, too: which answer it is does not matter."""
        self._machine.leave(self._why)
