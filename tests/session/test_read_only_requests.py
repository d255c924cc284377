"""Requests on their way to a read-only server and back, without I/O."""

from __future__ import annotations

import pytest

from corral.session.requests import Request, Requests
from corral.wire import messages


class Waiter:
    """Waits for one answer."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def done(self) -> bool:
        return False

    def set_result(self, result: object, /) -> None:
        pass

    def set_exception(self, exception: BaseException, /) -> None:
        self.error = exception


@pytest.fixture
def read() -> Request:
    return Request(messages.GET, messages.encode_get("/a", False), "/a", Waiter())


def send(requests: Requests, now: float) -> None:
    out: list[bytes] = []
    requests.take(now, out)
    assert out


def test_leaving_a_read_only_server_is_no_fault_of_a_read(read: Request) -> None:
    """T3, S2: a read fails when a second connection dies on it. One that is given up on purpose does not count."""
    session, beside = Requests(), Requests()
    beside.add(read)
    send(beside, 0.0)
    session.put_back(beside.surrender())  # a server accepts the session
    send(session, 1.0)
    assert session.in_flight[0] is read
    assert list(session.reclaim(2.0)) == []  # its connection died, once
    assert list(session.waiting) == [read]
    send(session, 3.0)
    assert [request for request, _ in session.reclaim(4.0)] == [read]  # twice


def test_what_comes_back_goes_first_and_in_order() -> None:
    """T3: reads that come back from a read-only server, sent or not, keep their order, and are ahead of the writes
    that have waited meanwhile."""
    session, beside = Requests(), Requests()
    write = Request(messages.SET, messages.encode_set("/a", b"", -1), "/a", Waiter())
    session.add(write)
    reads = [Request(messages.GET, messages.encode_get(f"/{n}", False), f"/{n}", Waiter()) for n in range(3)]
    for request in reads[:2]:
        beside.add(request)
    send(beside, 0.0)
    beside.add(reads[2])
    session.put_back(beside.surrender())
    assert list(session.waiting) == [*reads, write]
    assert not any(request.sent for request in reads)
    assert not beside.in_flight
    assert not beside.waiting
