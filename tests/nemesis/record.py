"""The record of a run: one file, one event per line, appended by all processes that take part.

A line is written by one `os.write` to a file opened for appending. So what a process has recorded is kept
when it is killed, and lines do not mix. Times are `time.monotonic()`, which on Linux is CLOCK_MONOTONIC: one
clock for all processes of a machine, which continues while some of them are stopped.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

What = Literal[
    "entered",  # a worker is in the body; `token`, and an item's name in `text`
    "left",  # its body was cancelled, or ended; `token`, and the reason in `text`
    "wrote",  # a write was confirmed; `token`, and the node's name in `text`
    "unknown",  # the answer to a write was lost; `token`
    "stalled",  # the process got no processor time from `since` until now
    "adding",  # an add to the counter begins
    "added",  # it was acknowledged; the new number in `token`
    "putting",  # the put of the item `thing` begins
    "put",  # it was acknowledged
    "acknowledged",  # the item `thing` is removed from its queue
    "worked",  # there is work on `thing` after the word to hurry
    "got",  # a result of the job `thing`, in `text`
    "failed",  # an unexpected error, in `text`
    "started",  # from the test: a process that acquires a lock was started
    "stopped",  # the test is about to stop a worker (SIGSTOP)
    "resumed",  # the test has resumed it (SIGCONT)
    "died",  # a worker that was killed is dead
    "fault",  # a fault begins; its name in `text`
    "mended",  # it was repaired
    "healed",  # all faults are over, and the ensemble serves
    "over",  # the workers are about to be told to end
]

Why = Literal["done", "told", "refused", "failed", "ended", "died", "lost from sight"]
"""Why a worker is no longer in the body: its stay was over; it was cancelled; its write was refused, as the
lock was gone; its body raised an error; the run is over, or what it has is to move away; it was killed; or it
is unknown."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened, when, to which worker and with which lock (-1: none, or all), or with which other thing
    that one worker at a time may have: an item, or a job."""

    at: float
    what: What
    worker: int = -1
    lock: int = -1
    thing: str = ""
    token: int = 0
    since: float = 0.0
    text: str = ""


_DEFAULTS = {field.name: field.default for field in fields(Event)}
_LONGEST_TEXT = 1000


class Recorder:
    """Appends to a record, for one worker or for none."""

    def __init__(self, path: str | Path, worker: int = -1) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._worker = worker

    def note(
        self,
        what: What,
        *,
        at: float | None = None,
        worker: int | None = None,
        lock: int = -1,
        thing: str = "",
        token: int = 0,
        since: float = 0.0,
        text: str = "",
    ) -> None:
        """Record an event now, or at the time `at`."""
        event = Event(
            at=time.monotonic() if at is None else at,
            what=what,
            worker=self._worker if worker is None else worker,
            lock=lock,
            thing=thing,
            token=token,
            since=since,
            text=text[:_LONGEST_TEXT],
        )
        said = {name: value for name, value in asdict(event).items() if value != _DEFAULTS[name]}
        os.write(self._file, json.dumps(said).encode() + b"\n")

    def close(self) -> None:
        """Stop recording."""
        os.close(self._file)


class Record:
    """Reads a record while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        """All events read so far, in the order of the file."""
        self.inside: dict[tuple[int, int, str], Event] = {}
        """The workers in a body, as far as the file was read: their entries, by worker, lock and thing."""
        self._read = 0

    def read(self) -> list[Event]:
        """Read new lines; returns all events, including earlier ones."""
        with open(self.path, "rb") as file:
            file.seek(self._read)
            come = file.read()
        whole = come[: come.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            event = Event(**json.loads(line))
            self.events.append(event)
            if event.what == "entered":
                self.inside[event.worker, event.lock, event.thing] = event
            elif event.what == "left":
                self.inside.pop((event.worker, event.lock, event.thing), None)
            elif event.what == "died":
                self.inside = {who: entry for who, entry in self.inside.items() if who[0] != event.worker}
        return self.events
