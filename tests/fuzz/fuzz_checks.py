"""The checks of a run: the types of results, the kinds of errors, and that nothing is left behind."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import corral
from corral import Acl, ChildrenEvent, Event, EventKind, RawEvent, Stat

FINAL = (corral.AuthFailed, corral.EnsembleBehind, corral.ClientClosed)
"""The errors after which a client never works again."""


class Checks:
    """Collects the violations."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        """Each begins with a signature, up to ``": "``, which is the same for the same defect in other
        runs."""

    def violated(self, signature: str, detail: object = "") -> None:
        """Record a violation."""
        said = f"{signature}: {detail}"
        if said not in self.violations and len(self.violations) < 50:
            self.violations.append(said)

    def require(self, condition: object, signature: str, detail: object = "") -> None:
        """Check a condition."""
        if not condition:
            self.violated(signature, f"{detail!r:.300}")

    def error(self, what: str, error: BaseException) -> None:
        """An operation has raised this: it must be a documented error."""
        if isinstance(error, corral.CorralError) and not isinstance(
            error, corral.UsageError | corral.InternalError
        ):
            return
        self.violated(f"{what} raised {type(error).__name__} in {place_of(error)}", f"{error!r:.300}")


def place_of(error: BaseException) -> str:
    """Where in corral an exception was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/corral/" in frame.filename]
    if not frames:
        return "no code of corral's"
    last = frames[-1]
    return f"{last.filename.rpartition('/corral/')[2]} {last.name}"


def where_is(coroutine: Any) -> str:
    """What a task waits for: the functions with names, from the outermost to the innermost."""
    names = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None:
            names.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return " > ".join(names[1:]) or "nothing"


class Log(logging.Handler):
    """Counts log records, and reports those that must not occur."""

    def __init__(self, checks: Checks) -> None:
        super().__init__(logging.INFO)
        self.lines = 0
        self._checks = checks

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        said = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.CRITICAL or "report" in said or isinstance(error, Exception):
            about = f" {type(error).__name__} in {place_of(error)}" if error is not None else ""
            self._checks.violated(f"logged {record.levelname} {record.msg}{about}", f"{said} {error!r:.300}")


# The types of results


def is_stat(value: object) -> bool:
    """A `Stat` of numbers."""
    return isinstance(value, Stat) and all(isinstance(each, int | float) for each in value)


def is_got(value: object) -> bool:
    """Data and a `Stat`."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bytes) and is_stat(value[1])


def is_names(value: object) -> bool:
    """A list of names."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def is_acl(value: object) -> bool:
    """A list of entries, and a `Stat`."""
    return isinstance(value, tuple) and all(isinstance(each, Acl) for each in value[0]) and is_stat(value[1])


def is_created(path: str, *, sequential: bool = False) -> Callable[[object], bool]:
    """The requested path, with a number if it is sequential."""

    def check(value: object) -> bool:
        if not sequential:
            return value == path
        if not isinstance(value, str) or not value.startswith(path):
            return False
        number = value.removeprefix(path).removeprefix("-")
        return number.isascii() and number.isdecimal()

    return check


def is_results(*checks: Callable[[object], bool]) -> Callable[[object], bool]:
    """As many results as operations, each of its type."""

    def check(value: object) -> bool:
        if not isinstance(value, list) or len(value) != len(checks):
            return False
        return all(each(result) for each, result in zip(checks, value, strict=True))

    return check


def is_nothing(value: object) -> bool:
    """None."""
    return value is None


def is_held(value: object) -> bool:
    """A `Held`, with valid attributes."""
    return (
        isinstance(value, corral.Held)
        and isinstance(value.fencing_token, int)
        and isinstance(value.node, str)
        and isinstance(value.session_id, int)
        and isinstance(value.is_valid, bool)
    )


def is_contenders(value: object) -> bool:
    """A list of contenders."""
    return isinstance(value, list) and all(is_contender(each) for each in value)


def is_contender(value: object) -> bool:
    """A contender."""
    return (
        isinstance(value, corral.Contender)
        and isinstance(value.name, str)
        and isinstance(value.sequence, int)
        and isinstance(value.data, bytes)
        and is_stat(value.stat)
    )


def is_raw_event(value: object) -> bool:
    """A raw event."""
    return isinstance(value, RawEvent) and isinstance(value.path, str) and isinstance(value.zxid, int | None)


def is_event(value: object, path: str, below: bool = False) -> bool:
    """An event of a node, or of one below it for a tree."""
    if not isinstance(value, Event) or not isinstance(value.path, str):
        return False
    if value.path != path and not (below and value.path.startswith(f"{path}/")):
        return False
    if value.kind is EventKind.COMPLETE:
        return below
    return is_stat(value.stat) and isinstance(value.data, bytes) if value.exists else value.data is None


class Told:
    """The events that a reader of one watch got, checked against the guarantees of watches."""

    def __init__(self, checks: Checks, path: str) -> None:
        self._checks = checks
        self._path = path
        self._newest: dict[tuple[str, int], int] = {}
        self._children: frozenset[str] | None = None

    def take(self, event: Event | ChildrenEvent, *, below: bool = False, is_true: bool) -> None:
        """Take one more event. `is_true` is false if the client may have received false messages."""
        if isinstance(event, ChildrenEvent):
            self._take_children(event)
        else:
            self._checks.require(is_event(event, self._path, below), "an event of another shape", event)
        stat = event.stat
        if stat is None or not is_true:
            return
        key = (event.path, stat.czxid)
        zxid = stat.pzxid if isinstance(event, ChildrenEvent) else stat.mzxid
        self._checks.require(zxid >= self._newest.get(key, 0), "an older state after a newer one", event)
        self._newest[key] = zxid

    def _take_children(self, event: ChildrenEvent) -> None:
        before = self._children or frozenset()
        fits = (
            event.path == self._path
            and all(isinstance(name, str) for name in event.children)
            and event.children == before - event.removed | event.added
            and not event.added & before
            and event.removed <= before
            and (event.stat is None or is_stat(event.stat))
        )
        self._checks.require(fits, "an event of children of another shape", event)
        self._children = event.children
