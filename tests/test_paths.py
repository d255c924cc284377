"""Znode paths: the server's rules, compared with an independent implementation of them, and chroots."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from corral import errors, paths


def zookeeper_takes(path: str) -> bool:
    """ZooKeeper's `PathUtils.validatePath`, for each character as Java has them: UTF-16 units."""
    raw = path.encode("utf-16-be", "surrogatepass")
    units = [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
    slash, dot = ord("/"), ord(".")
    if not units or units[0] != slash:
        return False
    if len(units) == 1:
        return True
    if units[-1] == slash:
        return False
    for i in range(1, len(units)):
        unit, before = units[i], units[i - 1]
        ends = i + 1 == len(units) or units[i + 1] == slash
        if unit == 0 or (unit == slash and before == slash):
            return False
        if unit == dot and before == dot and units[i - 2] == slash and ends:
            return False
        if unit == dot and before == slash and ends:
            return False
        if (
            0x01 <= unit <= 0x1F
            or 0x7F <= unit <= 0x9F
            or 0xD800 <= unit <= 0xF8FF
            or 0xFFF0 <= unit <= 0xFFFF
        ):
            return False
    return True


def we_take(path: str) -> bool:
    """Whether `validate` accepts a path."""
    try:
        paths.validate(path)
    except errors.UsageValueError:
        return False
    return True


# All characters, the significant ones more often than others.
characters = st.sampled_from("/.a") | st.sampled_from(
    "\x00\x01\x1f\x20\x7e\x7f\x9f\xa0\ud7ff\ud800\udfff\ue000\uf8ff\uf900\uffef\ufff0\uffff\U00010000\U0010ffff"
)
anything = st.text(characters | st.characters(), max_size=12)


@given(anything | anything.map("/".__add__))
@example("")
@example("/")
@example("/...")
@example("/..a")
@example("/a..")
@example("/a/..")
@example("/./a")
def test_the_rules_are_the_servers(path: str) -> None:
    """`validate` accepts exactly the paths that the server's own rules accept."""
    assert we_take(path) == zookeeper_takes(path)


def test_every_character_is_judged_as_the_server_does() -> None:
    """The forbidden characters are exactly the server's, to the first and the last of each range."""
    edges = (0xD800, 0xF900, 0xFFF0, 0x10000, 0x110000)
    codes = {*range(0x400), *(code for edge in edges for code in range(edge - 16, min(edge + 16, 0x110000)))}
    judged = {code: we_take(f"/a{chr(code)}b") for code in codes}
    assert judged == {code: zookeeper_takes(f"/a{chr(code)}b") for code in codes}
    assert {True, False} == set(judged.values())


@pytest.mark.parametrize(
    ("path", "error", "named"),
    [
        ("", errors.UsageValueError, "must start with '/'"),
        ("a", errors.UsageValueError, "'a' must start with '/'"),
        ("./a", errors.UsageValueError, "must start with '/'"),
        ("/a/", errors.UsageValueError, "must not end with '/'; write '/a'"),
        ("//", errors.UsageValueError, "must not end with '/'; write '/'"),
        ("//a", errors.UsageValueError, "empty name"),
        ("/a//b", errors.UsageValueError, "empty name"),
        ("/.", errors.UsageValueError, "the name '.'"),
        ("/a/../b", errors.UsageValueError, "the name '..'"),
        ("/a\x00b", errors.UsageValueError, r"'\x00' at index 2"),
        ("/a\nb", errors.UsageValueError, r"'\n' at index 2"),
        ("/ab\x7f", errors.UsageValueError, r"'\x7f' at index 3"),
        ("/\ud800", errors.UsageValueError, r"'\ud800' at index 1"),
        ("/\ufffd", errors.UsageValueError, "at index 1"),
        ("/\U0001f512", errors.UsageValueError, "at index 1"),
        ("/a" * 1000 + "/", errors.UsageValueError, "... (2,003 characters) must not end"),
        (None, errors.UsageTypeError, "not None"),
        (b"/a", errors.UsageTypeError, "not a value of type bytes"),
        (7, errors.UsageTypeError, "not 7"),
        (["/a"], errors.UsageTypeError, "not a value of type list"),
    ],
)
def test_what_is_wrong_is_named(path: Any, error: type[Exception], named: str) -> None:
    """The error for a path quotes it, and says what is wrong with it, and where: both when it is checked, and
    when it is resolved below a chroot."""
    for check in (paths.validate, lambda path: paths.resolve("/chroot", path)):
        with pytest.raises(error) as caught:
            check(path)
        assert named in str(caught.value)
        assert "chroot" not in str(caught.value)


def test_what_is_named_is_what_the_caller_called_it() -> None:
    """The error calls a chroot, or another parameter that is a path, by its name."""
    with pytest.raises(errors.UsageValueError, match=r"^chroot 'a' must start with '/'"):
        paths.validate("a", "chroot")


good = anything.map("/".__add__).filter(zookeeper_takes)


@given(st.just("") | good.filter("/".__ne__), good)
def test_resolving_and_stripping(chroot: str, path: str) -> None:
    """A path below a chroot becomes a valid path on the server, and is translated back to the caller's."""
    full = paths.resolve(chroot, path)
    assert zookeeper_takes(full)
    assert full.startswith(chroot)
    assert paths.strip(chroot, full) == path


@pytest.mark.parametrize(
    ("chroot", "path", "full"),
    [("", "/", "/"), ("", "/a", "/a"), ("/app", "/", "/app"), ("/app", "/a/b", "/app/a/b")],
)
def test_resolve(chroot: str, path: str, full: str) -> None:
    """The root of a chrooted client is the chroot."""
    assert paths.resolve(chroot, path) == full


@pytest.mark.parametrize("full", ["/application", "/other", "/"])
def test_stripping_what_is_not_below(full: str) -> None:
    """A path that is not below the chroot is given in full, even if it begins with the same letters."""
    assert paths.strip("/app", full) == full


@given(good, st.text("ab", min_size=1))
def test_parents_and_children(path: str, name: str) -> None:
    """The parent of a joined path is the path that the child was joined to; the root is its own parent."""
    child = paths.join(path, name)
    assert zookeeper_takes(child)
    assert paths.parent_of(child) == path
    assert paths.parent_of("/") == "/"
