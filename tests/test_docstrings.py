"""Every public coroutine says what happens on cancel and on loss of the connection, or names who says it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import corral

# What a docstring says of each, however it is put.
_CANCEL = re.compile(r"\bcancel", re.IGNORECASE)
_LOSS = re.compile(
    r"\bon loss\b|\bloss of the connection|\bconnection (?:is|was) (?:lost|down)|\bconnection down|`ConnectionLoss`",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"(?:\b[Ss]ee|\bin|\bas by|\bas|\bthan|\band) `(?:corral\.)?([\w.]+)`")


def coroutines() -> Iterator[tuple[str, Any, Any]]:
    """The name of each public coroutine, its function, and the public class that has it, if one does."""
    for name in sorted(corral.__all__):
        value = getattr(corral, name)
        if inspect.iscoroutinefunction(value):
            yield name, value, None
        elif inspect.isclass(value):
            for member in sorted(dir(value)):
                function = inspect.unwrap(getattr(value, member))
                if not member.startswith("_") and inspect.iscoroutinefunction(function):
                    yield f"{name}.{member}", function, value


COROUTINES = {name: (function, cls) for name, function, cls in coroutines()}


def documented(name: str, cls: Any) -> list[tuple[str, Any]]:
    """The docstring that a reference means, and the class that it belongs to."""
    found = []
    for start in (cls, corral):
        value = start
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None and value.__doc__:
            found.append((value.__doc__, value if inspect.isclass(value) else cls))
    return found


def says(text: str, cls: Any, what: re.Pattern[str], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a docstring says it, or refers to one that does."""
    if what.search(text):
        return True
    return any(
        says(other, owner, what, seen | {name})
        for name in _REFERENCE.findall(text)
        if name not in seen
        for other, owner in documented(name, cls)
    )


def class_says(cls: Any) -> list[str]:
    """The docstrings of a class and its bases that have a paragraph on both."""
    docs = [base.__doc__ or "" for base in cls.__mro__ if base.__module__.startswith("corral")] if cls else []
    return [doc for doc in docs if "On cancel" in doc and "On loss" in doc]


def test_there_are_coroutines() -> None:
    """What is looked for is found."""
    assert {"Client.get", "Client.ensure_path", "Lock.acquire", "Held.release", "Transaction.commit"} <= set(
        COROUTINES
    )
    assert len(COROUTINES) > 50


@pytest.mark.parametrize("name", COROUTINES)
def test_cancel_and_loss_are_documented(name: str) -> None:
    """A coroutine's docstring says what happens on cancel and on loss of the connection; or that of its class does,
    in a paragraph on each; or one that it refers to as "see `X`"."""
    function, cls = COROUTINES[name]
    text = function.__doc__ or ""
    missing = [
        word
        for word, what in (("cancel", _CANCEL), ("loss", _LOSS))
        if not says(text, cls, what) and not class_says(cls)
    ]
    assert missing == [], f"{name}: its docstring does not say what happens on {' nor on '.join(missing)}"


@pytest.mark.parametrize("name", COROUTINES)
def test_references_of_docstrings_lead_somewhere(name: str) -> None:
    """Where a coroutine's docstring says "see `X`", there is an X, public and documented."""
    function, cls = COROUTINES[name]
    named = re.findall(r"\b[Ss]ee `(?:corral\.)?([\w.]+)`", function.__doc__ or "")
    assert [each for each in named if not documented(each, cls)] == []
