"""`Requests`, the only owner of queued requests and those in flight, in isolation: numbers, windows, and the
three queues."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable

import pytest
from driven import body_of
from scripted import Answer, T

from corral import errors
from corral.session import requests as requests_module
from corral.session.requests import (
    FIRST_FLIGHT,
    MAX_BYTES_IN_FLIGHT,
    MAX_IN_FLIGHT,
    NOBODY,
    OwnRequest,
    Request,
    Requests,
)
from corral.wire import messages


def request(path: str = "/a", *, size: int | None = None, bound_to: int = 0) -> Request:
    """A write of this size, or a read."""
    if size is None:
        return Request(messages.GET, body_of(messages.GET, path), path, Answer(), bound_to=bound_to)
    return Request(messages.SET, bytes(size), path, Answer(), bound_to=bound_to)


def take(requests: Requests) -> list[int]:
    """Send what may be sent; returns the xids."""
    out: list[bytes] = []
    requests.take(0.0, out)
    stream, xids = b"".join(out), []
    while stream:
        length, xid = struct.unpack_from(">ii", stream)
        xids.append(xid)
        stream = stream[4 + length :]
    return xids


def test_numbers_are_those_of_the_protocol_and_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """xids count up, and start again after the largest; negative ones and 0 have a special meaning for a
    server."""
    monkeypatch.setattr(
        requests_module, "_LAST_XID", 3
    )  # two thousand million requests are too many for a test
    requests = Requests()
    requests.waiting.extend(request() for _ in range(5))
    assert take(requests) == [1, 2, 3, 1, 2]
    assert requests_module._FIRST_XID == 1
    monkeypatch.undo()
    assert requests_module._LAST_XID == 2**31 - 1


def test_the_window_grows_with_each_round_trip() -> None:
    """Fairness: a connection starts with a few requests in flight. Each round trip doubles that number, up to
    a thousand. The next connection starts again."""
    requests = Requests()
    requests.waiting.extend(request() for _ in range(20 * MAX_IN_FLIGHT))
    flights = []
    for _ in range(9):
        sent = take(requests)
        flights.append(len(sent))
        for xid in sent:
            assert requests.answered(xid, 100) is not None
    assert flights == [32, 64, 128, 256, 512, 1000, 1000, 1000, 1000]
    requests.connected(T)
    assert len(take(requests)) == FIRST_FLIGHT == 32


def test_the_window_shrinks_with_the_size_of_answers() -> None:
    """Fairness: the requests in flight have about 4 MB of answers: with answers of a megabyte, 4 or 5
    requests, as soon as the first one came. When answers are small again, the number grows again."""
    requests = Requests()
    requests.waiting.extend(request() for _ in range(5000))
    in_flight = deque(take(requests))
    most = []
    for _ in range(100):
        assert requests.answered(in_flight.popleft(), 1_000_000) is not None
        in_flight.extend(take(requests))
        most.append(len(in_flight))
    assert most[:FIRST_FLIGHT] == list(range(31, 4, -1)) + [5] * 5
    assert set(most[FIRST_FLIGHT:]) == {5}
    assert MAX_BYTES_IN_FLIGHT <= 5 * 1_000_000
    for _ in range(1000):
        assert requests.answered(in_flight.popleft(), 100) is not None
        in_flight.extend(take(requests))
    assert len(in_flight) > 500


@pytest.mark.parametrize("way", ["answered", "reclaimed", "dropped"])
def test_the_window_counts_bytes(way: str) -> None:
    """Fairness: large requests fill the window in bytes. At least one request of any size is let through, and
    there is room again however requests leave the window."""
    requests = Requests()
    requests.waiting.extend(request(size=MAX_BYTES_IN_FLIGHT + n) for n in range(3))
    [first] = take(requests)
    assert take(requests) == []
    if way == "answered":
        assert requests.answered(first, 16) is not None
    elif way == "reclaimed":
        assert [each.xid for each, _ in requests.reclaim(0.0)] == [first]
    else:
        assert len(requests.drop_all()) == 3
        requests.waiting.append(request(size=1))
    assert len(take(requests)) == 1


def test_a_refused_request_counts_until_it_is_reclaimed() -> None:
    """Fairness: a request that was reclaimed still counts in the window, and counts once when it is sent
    again."""
    requests = Requests()
    requests.waiting.extend([request(size=MAX_BYTES_IN_FLIGHT), request(size=1)])
    for _ in range(3):
        [xid] = take(requests)
        refused = requests.answered(xid, 16)
        assert refused is not None
        requests.refused(refused)
        assert take(requests) == []
        assert list(requests.reclaim(0.0)) == []


def test_what_the_session_says_goes_first() -> None:
    """Urgent requests are sent in their order, before everything that waits, and once."""
    requests = Requests()
    requests.waiting.append(request())
    requests.urgent.extend([b"one", b"two"])
    out: list[bytes] = []
    requests.take(0.0, out)
    assert out[:2] == [b"one", b"two"]
    assert b"".join(out[2:]).endswith(b"\x02/a\x00")
    assert not requests.urgent


def test_a_request_of_the_session_keeps_the_line_of_answers() -> None:
    """A heartbeat is sent before what waits, and is answered in the order of sending."""
    requests = Requests()
    requests.waiting.extend([request(), request()])
    take(requests)
    requests.waiting.append(request())
    own = OwnRequest(messages.MULTI, b"", None, NOBODY)
    requests.send_first(own, 0.0)
    assert take(requests) == [3, 4]
    assert own.xid == 3
    assert [requests.answered(xid, 16) is not None for xid in (1, 2, 3, 4)] == [True] * 4


@pytest.mark.parametrize("xid", [0, 2, 3, -1])
def test_only_the_oldest_can_be_answered(xid: int) -> None:
    """An answer belongs to the oldest request in flight, or to none; if none is in flight, to none."""
    requests = Requests()
    assert requests.answered(1, 16) is None
    requests.waiting.extend([request(), request()])
    take(requests)
    assert requests.answered(xid, 16) is None
    assert requests.answered(1, 16) is not None


def test_dropping_what_is_bound() -> None:
    """Waiting requests that are bound to another session than the current one are removed; the others keep
    their order."""
    requests = Requests()
    requests.waiting.extend(request(f"/{n}", bound_to=n % 3) for n in range(6))
    assert [each.path for each in requests.drop_bound(1)] == ["/2", "/5"]
    assert [each.path for each in requests.drop_bound(0)] == ["/1", "/4"]
    assert [each.path for each in requests.waiting] == ["/0", "/3"]
    assert requests.drop_bound(0) == []


def test_whoever_waits_no_more_is_told_nothing() -> None:
    """S8: neither an answer nor an error reaches a waiter that is done; a request that nobody waits for is
    not sent."""
    asked = request()
    waiter = asked.waiter
    assert isinstance(waiter, Answer)
    waiter.cancelled = True
    asked.resolve("late")
    asked.reject(ValueError("late"))
    assert not waiter.answered
    requests = Requests()
    requests.waiting.append(Request(messages.GET, b"", None, NOBODY))
    assert take(requests) == [1]


def test_a_request_says_what_it_is() -> None:
    """A log line about a request has its operation, its path and its outcome."""
    asked = request("/config")
    assert "get '/config'" in repr(asked)
    assert not asked.sent
    requests = Requests()
    requests.waiting.append(asked)
    take(requests)
    assert asked.sent
    assert "xid=1 attempts=1" in repr(asked)


# Handing over


async def create(*, sent: bool = True) -> tuple[Request, asyncio.Future[object], Answer]:
    """A write whose future is cancelled, and the waiter that is to have the answer instead."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    request = Request(messages.SET, b"", "/a", future)
    request.attempts = int(sent)
    return request, future, Answer()


LOST = errors.ConnectionLoss("set", "/a", "lost")


@pytest.mark.parametrize(
    ("settle", "outcome"),
    [
        (lambda request: request.resolve("made"), ("made", None)),
        (lambda request: request.resolve(None), (None, None)),
        (lambda request: request.reject(LOST), (None, LOST)),
    ],
    ids=["a result", "None", "an error"],
)
@pytest.mark.parametrize("when", ["before the cancel", "after the cancel", "later"])
async def test_the_answer_goes_to_whom_it_was_handed_over(
    when: str, settle: Callable[[Request], None], outcome: tuple[object, BaseException | None]
) -> None:
    """L3: the answer to a request that was handed over, or its error, is not lost, whether it came before its
    future was cancelled, between that and the hand-over, or afterwards. It is delivered once."""
    request, future, other = await create()
    if when == "before the cancel":
        settle(request)
    future.cancel()
    if when == "after the cancel":
        settle(request)
    request.hand_over(other)
    assert other.answered is (when != "later")
    if when == "later":
        settle(request)
    assert other.answered
    assert (other.result, other.error) == outcome


async def test_what_was_not_sent_is_not_handed_over() -> None:
    """A request that nobody waits for is not sent, even if it was handed over."""
    request, future, other = await create(sent=False)
    requests = Requests()
    requests.add(request)
    future.cancel()
    request.hand_over(other)
    assert take(requests) == []
    assert not other.answered
