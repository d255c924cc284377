"""The log lines of an outage, tested in isolation; `test_dial` tests them as a client writes them."""

from __future__ import annotations

import logging

import pytest

from corral.session.contact import FIRST_REMINDER, MOST_LINES, PERIOD, ContactLog

SERVER = "zk1:2181"


class Log:
    """A `ContactLog`, and what it logs at WARNING."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "corral.session")
        self.contact = ContactLog()
        self.contact.back(0.0, SERVER, "session 0x1")
        self._caplog = caplog
        assert [record.levelname for record in caplog.records] == ["INFO"]  # connecting at first is no outage
        self._seen = 0  # records from the setup of the fixtures are skipped

    def lose(self, now: float, held: str = "", left: float = 0.0) -> list[str]:
        self.contact.lost(now, f"{SERVER}: reset", held, left)
        return self.new()

    def fail(self, now: float) -> list[str]:
        self.contact.unreachable(now, "zk1:2181: refused")
        return self.new()

    def end(self, now: float, held: str = "") -> list[str]:
        self.contact.ended(now, "session 0x1 expired", held)
        return self.new()

    def back(self, now: float) -> list[str]:
        self.contact.back(now, SERVER, "session 0x2")
        return self.new()

    def new(self) -> list[str]:
        records = self._caplog.records[self._seen :]
        self._seen += len(records)
        return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_what_is_held_and_until_when(log: Log) -> None:
    """O: the line about the lost connection names the server and the reason, and says what is held and for
    how much longer."""
    assert log.lose(10.0) == [f"contact lost: {SERVER}: reset; nothing is held"]
    assert log.back(12.5) == [f"session 0x2 is on {SERVER} after 2.5 s; nothing was lost"]
    assert log.lose(20.0, "/lock/a", 3.25) == [
        f"contact lost: {SERVER}: reset; holding, for 3.2 s more: /lock/a"
    ]
    assert log.end(30.0, "/lock/a") == ["session 0x1 expired; what it held is lost: /lock/a"]
    assert log.back(31.0) == [f"session 0x2 is on {SERVER} after 11.0 s; lost meanwhile: session 0x1 expired"]


def test_reminders_come_less_and_less_often(log: Log) -> None:
    """O: while no server accepts us, a reminder is logged after a minute, and then at intervals that
    double."""
    log.lose(0.0)
    reminders = [now for now in range(3600) if log.fail(float(now))]
    assert reminders == [60, 180, 420, 900, 1860]
    assert FIRST_REMINDER == 60


def test_a_client_that_has_never_been_connected(caplog: pytest.LogCaptureFixture) -> None:
    """O: an outage from the start is logged, too, and so is its end."""
    contact = ContactLog()
    contact.unreachable(0.0, "zk1:2181: refused")
    contact.back(5.0, SERVER, "session 0x1")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "no server takes the session; trying on: zk1:2181: refused",
        f"session 0x1 is on {SERVER}, after 5.0 s of trying",
    ]


def test_what_was_held_is_always_told(log: Log) -> None:
    """O: a line about the loss of something held is written however many lines were written before."""
    for n in range(100):
        log.lose(float(n))
        log.back(n + 0.5)
    assert log.lose(101.0) == []
    [line] = log.end(102.0, "/lock/a")
    assert "/lock/a" in line
    assert "lines like this were left out" in line


def test_lines_are_left_out_and_counted(log: Log) -> None:
    """O: for a connection that comes and goes, ten lines are written in half an hour; the next one says how
    many were left out."""
    written = []
    for n in range(2000):
        written += [(n, line) for line in log.lose(float(n)) + log.back(n + 0.5)]
    assert len([n for n, _ in written if n < PERIOD]) == MOST_LINES
    assert f"({2 * PERIOD - MOST_LINES:.0f} lines like this were left out" in written[MOST_LINES][1]


def test_an_outage_after_a_flapping_connection_is_told(log: Log) -> None:
    """O: a connection that came and went for some minutes, as when servers are restarted one after another,
    does not suppress the lines about the outage that follows."""
    for n in range(10):
        log.lose(n * 30.0)
        log.back(n * 30.0 + 1)
    written = log.lose(400.0)
    for now in range(400, 1600):
        written += log.fail(float(now))
    assert written


def test_the_end_of_a_session_on_a_connection_has_an_end(log: Log) -> None:
    """O: if the session ends while it is connected (the server says that it expired, or the lease lapses in a
    blocked loop), the line about that is followed by one that says that there is a session again."""
    assert log.end(10.0) != []
    assert log.back(12.0) != []
