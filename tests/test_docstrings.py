"""The docstring of every public coroutine, or of a class that it names, says what happens on cancel and on
loss of the connection."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import corral

# The phrases that count for each of the two.
_CANCEL = re.compile(r"\bcancel", re.IGNORECASE)
_LOSS = re.compile(
    r"\bon loss\b|\bloss of the connection|\bconnection (?:is|was) (?:lost|down)|\bconnection down|`ConnectionLoss`",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"(?:\b[Ss]ee|\bin|\bas by|\bas for|\bas|\bthan|\band) `(?:corral\.)?([\w.]+)`")


# What `async with` and `async for` await. Their class documents them.
_IMPLICIT = ("__aenter__", "__aexit__", "__anext__")


def is_awaited(function: Any) -> bool:
    """Whether callers await what a function returns, or iterate over it, even if it is no `async def`."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    returns = str(inspect.get_annotations(function).get("return", "")) if inspect.isfunction(function) else ""
    return (
        re.match(r"(?:[\w.]+\.)?(?:Awaitable|Coroutine|Future|Task|AsyncIterator|AsyncGenerator)\b", returns)
        is not None
    )


def coroutines() -> Iterator[tuple[str, Any, Any]]:
    """The name of each public coroutine, its function, and its public class, if it has one."""
    for name in sorted(corral.__all__):
        value = getattr(corral, name)
        if inspect.isclass(value):
            for member in sorted(dir(value)):
                function = inspect.unwrap(getattr(value, member))
                if (not member.startswith("_") or member in _IMPLICIT) and is_awaited(function):
                    yield f"{name}.{member}", function, value
        elif is_awaited(value):
            yield name, value, None


COROUTINES = {name: (function, cls) for name, function, cls in coroutines()}


def text_of(name: str, function: Any, cls: Any) -> str:
    """The docstring that documents a coroutine: its own, or that of its class for what `async with` and
    `async for` await, and if its own says "see the class"."""
    own = function.__doc__ or ""
    is_of_class = name.rpartition(".")[2] in _IMPLICIT or "see the class" in own.lower()
    return (cls.__doc__ or "") if is_of_class else own


def documented(name: str, cls: Any) -> list[tuple[str, Any]]:
    """The docstring that a reference means, and its class."""
    found = []
    for start in (cls, corral):
        value = start
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None and value.__doc__:
            found.append((value.__doc__, value if inspect.isclass(value) else cls))
    return found


def says(text: str, cls: Any, what: re.Pattern[str], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a docstring, or one that it refers to, says it."""
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
    """The search finds coroutines, what `async with` and `async for` await, and other awaitables."""
    assert {"Client.get", "Client.ensure_path", "Lock.acquire", "Held.release", "Transaction.commit"} <= set(
        COROUTINES
    )
    assert {"NodeWatch.__anext__", "Held.__aexit__", "StateStream.__anext__", "Cache.__aenter__"} <= set(
        COROUTINES
    )
    assert len(COROUTINES) > 80


def test_a_docstring_that_says_nothing_is_found() -> None:
    """A docstring without these phrases does not count as documented, and neither does one that refers to
    such a docstring."""
    for text in ("Wait.", "Wait; see `Stat`.", "Wait, as `Client.chroot` does."):
        assert not says(text, corral.Client, _CANCEL)
        assert not says(text, corral.Client, _LOSS)
    assert says("Wait; see `Transaction`.", None, _CANCEL)


@pytest.mark.parametrize("name", COROUTINES)
def test_cancel_and_loss_are_documented(name: str) -> None:
    """A coroutine's docstring says what happens on cancel and on loss of the connection. Otherwise that of
    its class does, in a paragraph on each, or one that it refers to as "see `X`"."""
    function, cls = COROUTINES[name]
    text = text_of(name, function, cls)
    missing = [
        word
        for word, what in (("cancel", _CANCEL), ("loss", _LOSS))
        if not says(text, cls, what) and not class_says(cls)
    ]
    assert missing == [], f"{name}: its docstring does not say what happens on {' nor on '.join(missing)}"


@pytest.mark.parametrize("name", COROUTINES)
def test_references_of_docstrings_lead_somewhere(name: str) -> None:
    """If a coroutine's docstring says "see `X`", X exists, and is public and documented."""
    function, cls = COROUTINES[name]
    named = re.findall(r"\b[Ss]ee `(?:corral\.)?([\w.]+)`", text_of(name, function, cls))
    assert [each for each in named if not documented(each, cls)] == []
