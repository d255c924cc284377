"""The record of a run: one file, a line an event, appended by all the processes that take part.

A line is written by one `os.write` to a file opened for appending: what a process has said stays said when it is
killed, and lines do not mix. Times are `time.monotonic()`, which on Linux is CLOCK_MONOTONIC: one clock for all
processes of a machine, that goes on while some of them are stopped.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

What = Literal[
    "entered",  # a worker is in the body; `token`
    "left",  # its body was told, or ended; `token`, and why in `text`
    "wrote",  # a write was confirmed; `token`, and the node's name in `text`
    "unknown",  # the answer to a write was lost; `token`
    "stalled",  # the process did not get the processor from `since` until now
    "failed",  # an error that should not be, in `text`
    "started",  # from the test: there is a process that takes a lock
    "stopped",  # it is about to stop a worker (SIGSTOP)
    "resumed",  # it has let it go on (SIGCONT)
    "died",  # a worker that was killed is dead
    "fault",  # a fault begins; which, in `text`
    "mended",  # it was mended
    "healed",  # all faults are over, and the ensemble serves
    "over",  # the workers are about to be told to end
]

Why = Literal["done", "told", "refused", "ended", "died", "lost from sight"]
"""Why a worker is not in the body any more: its stay was over; it was cancelled; its write was refused, as the lock is
gone; the run is over; it was killed; or nothing is known of it."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened, when, to which worker and with which lock (-1: none, or all)."""

    at: float
    what: What
    worker: int = -1
    lock: int = -1
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
        token: int = 0,
        since: float = 0.0,
        text: str = "",
    ) -> None:
        """Write down what happens now, or happened `at` some time."""
        event = Event(
            at=time.monotonic() if at is None else at,
            what=what,
            worker=self._worker if worker is None else worker,
            lock=lock,
            token=token,
            since=since,
            text=text[:_LONGEST_TEXT],
        )
        said = {name: value for name, value in asdict(event).items() if value != _DEFAULTS[name]}
        os.write(self._file, json.dumps(said).encode() + b"\n")

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


class Record:
    """Reads a record while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        """All that was read so far, in the order of the file."""
        self.inside: dict[tuple[int, int], Event] = {}
        """By what was read, who is in the body now: the entries, by worker and lock."""
        self._read = 0

    def read(self) -> list[Event]:
        """Read what has come; returns all events, those of before included."""
        with open(self.path, "rb") as file:
            file.seek(self._read)
            come = file.read()
        whole = come[: come.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            event = Event(**json.loads(line))
            self.events.append(event)
            if event.what == "entered":
                self.inside[event.worker, event.lock] = event
            elif event.what == "left":
                self.inside.pop((event.worker, event.lock), None)
            elif event.what == "died":
                self.inside = {who: entry for who, entry in self.inside.items() if who[0] != event.worker}
        return self.events
