"""Sessions: ids, passwords, timeouts, and the tick at whose end they expire."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from corral.testing.embedded.sessions import PASSWORD_SIZE, Session, Sessions

TICK = 500
KEY = b"key"
START = 1_000_100


def sessions(key: bytes = KEY) -> Sessions[str]:
    """The sessions of a server, at the start of a tick."""
    return Sessions(TICK, 1000, 10_000, key, START)


def opened(table: Sessions[str], timeout: int = 1000, now: int = START) -> Session[str]:
    """A new session."""
    return table.open(timeout, now, is_local=False)


def test_ids() -> None:
    """Ids are made like a real server's: from server number 1, the start time, and a counter from 0."""
    table = sessions()
    first, second = opened(table), opened(table)
    assert first.id >> 56 == 1
    assert first.id & 0xFFFF == 0
    assert second.id == first.id + 1
    assert table.ids() == [first.id, second.id]
    assert first.id in table
    assert table.find(second.id) is second
    assert len(table) == 2


def test_the_key_decides() -> None:
    """The same key gives the same ids and passwords, another key gives others."""
    one, same, other = sessions(), sessions(), sessions(b"other")
    session_id = opened(one).id
    assert opened(same).id == session_id
    assert opened(other).id != session_id
    assert one.password(session_id) == same.password(session_id) != other.password(session_id)
    assert one.password(session_id) != one.password(session_id + 1)
    assert len(one.password(session_id)) == PASSWORD_SIZE
    assert len(one.password(-1)) == PASSWORD_SIZE


@pytest.mark.parametrize(("asked", "given"), [(-1, 1000), (999, 1000), (4321, 4321), (10_001, 10_000)])
def test_negotiation(asked: int, given: int) -> None:
    """The timeout is limited by a minimum and a maximum."""
    assert sessions().negotiate(asked) == given


def test_expires_at_the_end_of_the_tick() -> None:
    """START is in the tick that ends at 1,000,500; a second later is in the one that ends at 1,001,500."""
    table = sessions()
    session = opened(table, 1000)
    assert session.bucket == table.deadline() == 1_001_500
    assert table.expired(1_001_499) == []
    assert table.expired(1_001_500) == [session]
    table.remove(session)
    assert table.expired(1_002_000) == []
    assert table.deadline() is None
    assert table.find(session.id) is None


def test_a_time_out_of_whole_ticks_lives_a_tick_more() -> None:
    """A session whose timeout ends exactly at the start of a tick expires at the end of that tick."""
    table = sessions()
    assert opened(table, 1000, 1_000_500).bucket == 1_002_000


def test_touching() -> None:
    """Each request postpones the expiry."""
    table = sessions()
    session = opened(table)
    table.touch(session, START + 999)
    assert session.bucket == table.deadline() == 1_002_500
    assert table.expired(1_002_499) == []
    assert table.buckets() == {1_002_500: [session.id]}


def test_late() -> None:
    """Ticks that were missed are processed later, the earliest first."""
    table = sessions()
    long, short = opened(table, 5000), opened(table, 1000)
    kept = opened(table, 9000)
    assert table.expired(1_007_000) == [short, long]
    assert table.find(kept.id) is kept


def test_restart() -> None:
    """After a restart sessions have their full timeout again; sessions of a read-only server are gone."""
    table = sessions()
    session = opened(table)
    local = table.open(1000, START, is_local=True)
    table.restart(START + 100_000)
    assert table.find(local.id) is None
    assert session.bucket == 1_101_500
    assert table.expired(1_101_499) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3000), st.sampled_from([1000, 1700, 10_000])), max_size=50
    )
)
def test_expires_within_a_tick_after_its_time(steps: list[tuple[int, int, int]]) -> None:
    """If every deadline is kept, a session never expires early, nor more than a tick late, whenever sessions
    are touched."""
    table, now = sessions(), START
    heard: dict[Session[str], int] = {}
    for which, wait, timeout in steps:
        until = now + wait
        while (due := table.deadline()) is not None and due <= until:
            for session in table.expired(due):
                assert 0 < due - heard.pop(session) - session.timeout <= TICK
                table.remove(session)
        now = until
        if which < len(heard):
            session = list(heard)[which]
            session.timeout = timeout
            table.touch(session, now)
        else:
            session = opened(table, timeout, now)
        heard[session] = now
        assert set(table.ids()) == {session.id for session in heard}
        assert sum(map(len, table.buckets().values())) == len(heard)
