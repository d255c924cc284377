"""Exceptions of our own callbacks: each fails its own request or observer, is logged, and affects nothing
else."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from driven import WRITTEN, Driven, got
from scripted import Answer, T, stat_of

import corral
from corral import errors
from corral.session.requests import Request
from corral.session.watch_registry import WatchState
from corral.session.watchers import WatchEvent
from corral.wire import messages


class Broken(Answer):
    """A waiter that raises when it gets its first answer."""

    def _settle(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            raise ValueError("a defect")

    def done(self) -> bool:
        return False


def submit(driven: Driven, waiter: Answer, op: messages.Operation = messages.GET) -> None:
    driven.machine.submit(Request(op, messages.encode_get("/hit", False), "/hit", waiter))


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("told", ["the answer", "a refusal", "the loss"])
def test_a_waiter_that_raises_ends_only_what_it_waits_for(
    told: str, driven: Driven, caplog: pytest.LogCaptureFixture
) -> None:
    """S2: a waiter that raises is given its own exception as the error, and the exception is logged. The
    waiters beside it get their answers, and the connection stays open."""
    before, broken, after = driven.write("/before"), Broken(), driven.read("/after")
    driven.machine.submit(Request(messages.SET, messages.encode_set("/hit", WRITTEN, -1), "/hit", broken))
    one, three, two = driven.heard()
    driven.reply(one, three)
    if told == "the answer":
        driven.reply(two)
    elif told == "a refusal":
        driven.answer(two, code=errors.NoNode.code)
    else:
        driven.lose()
        driven.connect()
    assert before.result == stat_of(WRITTEN)
    assert after.result == got(b"/after")
    assert isinstance(broken.error, errors.InternalError)
    assert isinstance(broken.error.__cause__, ValueError)
    assert "set '/hit'" in str(broken.error)
    assert "set '/hit'" in errors_in(caplog)[0]
    later = driven.read("/later")
    driven.reply(*driven.heard())
    assert later.result == got(b"/later")


def test_an_observer_that_raises_is_passed_over(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    """T: an observer of writes that raises is logged. The other observers see the write, and its caller gets
    the answer."""
    shown: list[bytes] = []

    class Observer:
        def __init__(self, broken: bool) -> None:
            self.broken = broken

        def wrote(self, op: messages.Operation, body: bytes, result: Any, /) -> None:
            if self.broken:
                raise ValueError("a defect")
            shown.append(body)

        async def settled(self) -> None:
            raise AssertionError

    for broken in (True, False):
        driven.machine.observers[Observer(broken)] = None
    write = driven.write("/w")
    [sent] = driven.heard()
    driven.reply(sent)
    assert write.result == stat_of(WRITTEN)
    assert shown == [sent.body]
    assert len(errors_in(caplog)) == 1


def test_a_holder_that_raises_is_passed_over(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    """L4: a holder that raises when it is notified of its loss is logged; the other holders are notified."""
    broken, other = driven.hold("/broken"), driven.hold("/other")

    def lost(error: BaseException, ended: float) -> None:
        raise ValueError("a defect")

    broken.lost = lost  # type: ignore[method-assign]
    driven.lose()
    driven.go(driven.now + T)
    assert isinstance(other.error, errors.LockLost)
    assert len(errors_in(caplog)) == 1


def test_a_watcher_that_raises_is_passed_over(driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
    """W4: a watcher that raises is logged; the others of the same path are notified, and the connection stays
    open."""
    told: list[WatchEvent] = []

    class Watcher:
        def __init__(self, broken: bool) -> None:
            self.broken = broken

        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            if self.broken:
                raise ValueError("a defect")
            told.append(change)

    for broken in (True, False):
        driven.machine.watches.add("/w", Watcher(broken))
    driven.machine.watches.mark_set("/w", WatchState.DATA)
    driven.notify(3, "/w")
    assert told == [WatchEvent.DATA_CHANGED]
    assert len(errors_in(caplog)) == 1
    assert driven.machine.close_reason is None


def broken_codec(*_: Any) -> NoReturn:
    raise ZeroDivisionError("a defect")


BROKEN_GET = dataclasses.replace(messages.GET, decode_reply=broken_codec)


def test_whoever_asked_is_told_what_broke_the_machine(driven: Driven) -> None:
    """S5: an answer on which the machine itself raises is no longer in flight. Its waiter gets the error, as
    do those whose requests are still in flight."""
    waiter, behind = Answer(), driven.read("/behind")
    driven.machine.submit(Request(BROKEN_GET, messages.encode_get("/hit", False), "/hit", waiter))
    one, two = driven.heard()
    driven.reply(one)
    with pytest.raises(ZeroDivisionError):
        driven.reply(two)
    assert isinstance(waiter.error, errors.InternalError)
    assert isinstance(waiter.error.__cause__, ZeroDivisionError)
    assert "get '/hit'" in str(waiter.error)
    assert behind.result == got(b"/behind")


async def test_everybody_is_told_when_the_client_breaks(
    connect: Callable[..., corral.Client], caplog: pytest.LogCaptureFixture
) -> None:
    """S5: when the machine raises, the request whose answer it was reading, those that are in flight, and
    whoever leaves the client each get an error of corral's, with the cause. The client is closed, and logs
    that once."""
    client = connect()
    zk = await client.__aenter__()
    session = zk._session
    hit = session.request(BROKEN_GET, messages.encode_get("/", False), "/hit")
    behind = [asyncio.ensure_future(zk.exists("/")) for _ in range(3)]
    await asyncio.wait([hit, *behind])
    assert isinstance(hit.exception(), errors.InternalError)
    for each in behind:
        error = each.exception()
        assert isinstance(error, errors.ClientClosed)
        assert isinstance(error.__cause__, ZeroDivisionError)
    with pytest.raises(errors.InternalError) as caught:
        await client.__aexit__(None, None, None)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert zk.state is corral.State.CLOSED
    assert len(errors_in(caplog)) == 1
