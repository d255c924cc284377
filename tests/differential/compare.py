"""Where two servers disagree about a program, in words for a developer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

from differences import agree
from program import Program, Step, listing
from replies import OPCODES, Barrier, Message
from runner import Observation

Comparison: TypeAlias = Callable[[Program], None]
"""Runs a program on both servers, and raises `Disagreement`."""


class Disagreement(AssertionError):
    """Two servers answered the same program differently."""


def compare(
    program: Program,
    real: Sequence[Observation],
    embedded: Sequence[Observation],
    names: tuple[str, str] = ("real", "embedded"),
) -> None:
    """Raise `Disagreement` for the first step on which the servers do not agree."""
    __tracebackhide__ = True
    for number, (theirs, ours) in enumerate(zip_longest(real, embedded)):
        if theirs is None or ours is None or not _agree(theirs, ours):
            raise Disagreement(_report(program, number, theirs, ours, names))


def _agree(real: Observation, embedded: Observation) -> bool:
    # Nearly always everything is equal, and this check is fast.
    return real == embedded or (
        real.seen.keys() == embedded.seen.keys()
        and all(
            agree(one, other)
            for name, said in real.seen.items()
            for one, other in zip_longest(said, embedded.seen[name])
        )
    )


def _report(
    program: Program,
    number: int,
    real: Observation | None,
    embedded: Observation | None,
    names: tuple[str, str],
) -> str:
    what = next(side.step for side in (real, embedded) if side)
    where = f"step {number}" if number < len(program) else "after the program"
    lines = ["the servers disagree about", *listing(program).splitlines(), f"{where}, {what!r}:"]
    theirs = real.seen if real else {}
    ours = embedded.seen if embedded else {}
    for name in dict.fromkeys([*theirs, *ours]):
        if theirs.get(name) != ours.get(name):
            lines += [f"  {name}", *_side_by_side(theirs.get(name, []), ours.get(name, []), names)]
    return "\n".join(lines)


def _side_by_side(real: Sequence[Message], embedded: Sequence[Message], names: tuple[str, str]) -> list[str]:
    """Equal lines once; where the two differ, both."""
    theirs, ours = list(real), list(embedded)
    while theirs and ours and theirs[-1] == ours[-1] and isinstance(theirs[-1], Barrier):
        theirs.pop()
        ours.pop()
    lines: list[str] = []
    both, first, second = (name.ljust(max(map(len, names))) for name in ("both", *names))
    for one, other in zip_longest(theirs, ours):
        if agree(one, other):
            lines.append(f"    {both}  {one!a}")
        else:
            lines += [f"    {first}  {_said(one)}", f"    {second}  {_said(other)}"]
    return lines


def _said(message: Message | None) -> str:
    return "nothing more" if message is None else ascii(message)


def shorten(program: Program, compared: Comparison) -> Program:
    """A program on which the servers still disagree, and from which nothing more can be removed."""
    for attempt in _shorter(program):
        try:
            compared(attempt)
        except Disagreement:
            return shorten(attempt, compared)
    return program


def _shorter(program: Program) -> Iterator[Program]:
    """Programs that are slightly shorter or simpler."""
    for size in (8, 4, 2, 1):
        for at in reversed(range(0, len(program), size)):
            if size == 1 or size < len(program):
                yield [*program[:at], *program[at + size :]]
    for at, step in enumerate(program):
        for fields in _plainer(step.fields):
            yield [*program[:at], Step(step.session, step.name, *fields), *program[at + 1 :]]
        if step.name == "pipeline" and len(step.fields) == 1:
            yield [*program[:at], Step(step.session, *step.fields[0]), *program[at + 1 :]]
        if step.session:
            yield [*program[:at], Step(0, step.name, *step.fields), *program[at + 1 :]]


def _plainer(fields: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The fields with one of them removed, if it is a request or an entry of a list, or simplified."""
    for at, value in enumerate(fields):
        before, after = fields[:at], fields[at + 1 :]
        if isinstance(value, tuple) and value:
            if isinstance(value[0], int) or value[0] in OPCODES:  # otherwise it is a required field
                yield (*before, *after)
            elif isinstance(value[0], str):
                yield (*before, (), *after)
            yield from ((*before, inner, *after) for inner in _plainer(value))
        elif value is True:
            yield (*before, False, *after)
        elif value is None or (isinstance(value, bytes) and value):
            yield (*before, b"", *after)
