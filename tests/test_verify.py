"""Arguments are checked before anything is sent: each error has the value, the rule and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from corral import Acl, Perm, acl, errors, verify
from corral.wire import messages

VALUE, TYPE = errors.UsageValueError, errors.UsageTypeError
INT32 = 2**31


def flags(**kinds: Any) -> Callable[[], int]:
    """A call of `create_flags`."""
    return lambda: verify.create_flags(**kinds)


BAD: dict[str, tuple[Callable[[], object], type[Exception], list[str]]] = {
    "data str": (lambda: verify.data("text"), TYPE, ["not a str of 4 characters", ".encode()"]),
    "data None": (lambda: verify.data(None), TYPE, ["not NoneType"]),
    "data int": (lambda: verify.data(7), TYPE, ["not int"]),
    "version str": (lambda: verify.version("3"), TYPE, ["'3'", "stat.version"]),
    "version bool": (lambda: verify.version(True), TYPE, ["True"]),
    "version float": (lambda: verify.version(1.0), TYPE, ["1.0"]),
    "version endless": (lambda: verify.version(10**5000), VALUE, ["thousands of digits", "32-bit"]),
    "version bytes": (lambda: verify.version(b"7"), TYPE, ["type bytes"]),
    "limit endless": (lambda: verify.limit(10**5000), VALUE, ["thousands of digits"]),
    "depth endless": (lambda: verify.depth(-(10**5000)), VALUE, ["thousands of digits"]),
    "number endless": (lambda: verify.number_or_predicate(-(10**5000), "n"), VALUE, ["thousands of digits"]),
    "version large": (lambda: verify.version(INT32), VALUE, [str(INT32), "32-bit"]),
    "version small": (lambda: verify.version(-INT32 - 1), VALUE, [str(-INT32 - 1)]),
    "acl None": (lambda: verify.acl(None), TYPE, ["None", "corral.acl.OPEN"]),
    "acl int": (lambda: verify.acl(31), TYPE, ["not int"]),
    "acl one": (lambda: verify.acl(acl.OPEN[0]), TYPE, ["sequence"]),
    "acl tuples": (lambda: verify.acl([(31, "world", "anyone")]), TYPE, ["corral.Acl"]),
    "acl generator": (lambda: verify.acl(each for each in acl.OPEN), TYPE, ["sequence"]),
    "acl str": (lambda: verify.acl("world"), TYPE, ["not str"]),
    "acl empty": (lambda: verify.acl([]), VALUE, ["nobody", "corral.acl.OPEN"]),
    "acl perms": (lambda: verify.acl([Acl(99, "world", "anyone")]), VALUE, ["99", "corral.Perm"]),
    "acl no perms": (lambda: verify.acl([Acl("rw", "world", "anyone")]), VALUE, ["'rw'", "corral.Perm"]),
    "acl scheme": (lambda: verify.acl([Acl(Perm.ALL, None, "anyone")]), TYPE, ["scheme", "NoneType"]),
    "acl id": (lambda: verify.acl([*acl.OPEN, Acl(Perm.ALL, "world", 7)]), TYPE, ["entry 1", "id", "int"]),
    "acl surrogate": (lambda: verify.acl([Acl(Perm.ALL, "ip", "\ud800")]), VALUE, ["Unicode"]),
    "acl no scheme": (
        lambda: verify.acl([Acl(Perm.ALL, "", "x")]),
        VALUE,
        ["scheme is empty", "acl.world()"],
    ),
    "acl world": (lambda: verify.acl([Acl(Perm.ALL, "world", "all")]), VALUE, ["entry 0", "'anyone'"]),
    "acl auth": (lambda: verify.acl([Acl(Perm.ALL, "auth", "ann")]), VALUE, ["takes no id", "acl.creator()"]),
    "acl password": (
        lambda: verify.acl([Acl(Perm.ALL, "digest", "ann:hush")]),
        VALUE,
        ["base64", "acl.digest("],
    ),
    "acl user": (lambda: verify.acl([Acl(Perm.ALL, "digest", "ann")]), VALUE, ["base64", "acl.digest("]),
    "acl masked": (lambda: verify.acl([Acl(Perm.ALL, "digest", "ann:x")]), VALUE, ["base64", "not shown"]),
    "acl name": (lambda: acl.ip("zk1"), VALUE, ["'zk1'", "network"]),
    "acl bits": (lambda: acl.ip("10.0.0.0/33"), VALUE, ["'10.0.0.0/33'", "network"]),
    "acl no bits": (lambda: acl.ip("10.0.0.0/"), VALUE, ["'10.0.0.0/'"]),
    "acl sasl": (lambda: acl.sasl(""), VALUE, ["sasl is empty", "who_am_i"]),
    "acl x509": (lambda: acl.x509(""), VALUE, ["x509 is empty", "who_am_i"]),
    "text bytes": (lambda: verify.text(b"x", "name"), TYPE, ["name", "bytes"]),
    "text surrogate": (lambda: verify.text("\udc00", "name"), VALUE, ["name", "Unicode"]),
    "auth str": (lambda: verify.credentials("digest"), TYPE, ["auth", "pairs"]),
    "auth pair": (lambda: verify.credentials(("digest", b"u:secret")), TYPE, ["pairs"]),
    "auth three": (lambda: verify.credentials([("digest", "u", "secret")]), TYPE, ["pairs"]),
    "auth None": (lambda: verify.credentials(None), TYPE, ["pairs"]),
    "container ephemeral": (flags(container=True, ephemeral=True), VALUE, ["container", "ephemeral"]),
    "container sequential": (flags(container=True, sequential=True), VALUE, ["sequential"]),
    "container ttl": (flags(container=True, ttl=1), VALUE, ["ttl"]),
    "ephemeral ttl": (flags(ephemeral=True, ttl=1), VALUE, ["ephemeral", "ttl"]),
    "ttl zero": (flags(ttl=0), VALUE, ["ttl", "positive"]),
    "ttl tiny": (flags(ttl=0.0009), VALUE, ["0.0009", "0.001"]),
    "ttl huge": (flags(ttl=verify.MAX_TTL * 1.1), VALUE, ["between"]),
    "ttl str": (flags(ttl="1s"), TYPE, ["ttl", "'1s'"]),
    "seconds negative": (lambda: verify.seconds(-1, "x"), VALUE, ["x", "-1", "positive"]),
    "seconds zero": (lambda: verify.seconds(0, "x"), VALUE, ["positive"]),
    "seconds nan": (lambda: verify.seconds(math.nan, "x"), VALUE, ["nan"]),
    "seconds infinite": (lambda: verify.seconds(math.inf, "x"), VALUE, ["finite", "inf"]),
    "seconds beyond": (lambda: verify.seconds(10**400, "x"), VALUE, ["finite"]),
    "seconds bool": (lambda: verify.seconds(True, "x"), TYPE, ["x", "True"]),
    "seconds str": (lambda: verify.seconds("10", "x"), TYPE, ["'10'"]),
    "seconds None": (lambda: verify.seconds(None, "x"), TYPE, ["None"]),
    "session_timeout tiny": (lambda: verify.session_timeout(0.0009), VALUE, ["session_timeout", "0.0009"]),
    "session_timeout huge": (lambda: verify.session_timeout(INT32 / 1000), VALUE, ["is in seconds"]),
    "session_timeout ms": (lambda: verify.session_timeout(30000), VALUE, ["8.3 hours", "divide by 1000"]),
    "session_timeout, the least": (lambda: verify.session_timeout(1000.0), VALUE, ["16.7 minutes"]),
    "session_timeout endless": (lambda: verify.session_timeout(10**5000), VALUE, ["thousands of digits"]),
    "connect_timeout ms": (lambda: verify.connect_timeout(15000), VALUE, ["4.2 hours", "None waits"]),
    "connect_timeout, the least": (lambda: verify.connect_timeout(3600), VALUE, ["1.0 hours"]),
    "connect_timeout str": (lambda: verify.connect_timeout("15"), TYPE, ["connect_timeout", "'15'"]),
    "session_timeout str": (lambda: verify.session_timeout("10s"), TYPE, ["session_timeout"]),
    "size bool": (lambda: verify.size(True, "max_reply"), TYPE, ["max_reply", "True"]),
    "size float": (lambda: verify.size(1e6, "max_reply"), TYPE, ["1000000.0"]),
    "size small": (lambda: verify.size(1023, "max_reply"), VALUE, ["1023", "1024"]),
    "size large": (lambda: verify.size(INT32, "max_reply"), VALUE, [str(INT32), str(INT32 - 1)]),
    "tick longer": (lambda: verify.tick_time(11, 10), VALUE, ["11", "10", "seconds"]),
    "tick milliseconds": (lambda: verify.tick_time(2000, 10.0), VALUE, ["2000", "in seconds"]),
    "tick str": (lambda: verify.tick_time("2", 10.0), TYPE, ["tick_time"]),
    "path of a sequence": (lambda: verify.new_path("", "a/", sequential=True), VALUE, ["'a'", "start"]),
    "slashes": (lambda: verify.new_path("", "/a//", sequential=True), VALUE, ["'/a//'"]),
    "not sequential": (lambda: verify.new_path("", "/a/", sequential=False), VALUE, ["'/a/'", "end"]),
    "path type": (lambda: verify.new_path("", None, sequential=True), TYPE, ["None"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    """A wrong argument is refused with an error of ours, which is also a ValueError or a TypeError, and
    contains the value, the rule, or the remedy."""
    call, error, named = BAD[case]
    with pytest.raises(error) as caught:
        call()
    assert [part for part in named if part not in str(caught.value)] == []
    assert isinstance(caught.value, ValueError if error is VALUE else TypeError)


def test_secrets_are_not_named() -> None:
    """S6: an error does not contain what may be a secret."""
    for value in (("digest", b"u:hunter2"), [("digest", b"u:hunter2", 1)], "hunter2"):
        with pytest.raises(TYPE) as caught:
            verify.credentials(value)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_data_is_bytes(value: Any) -> None:
    """L10: data is bytes; mutable buffers are copied, so that what is sent is what was passed."""
    data = verify.data(value)
    assert data == b"x"
    assert type(data) is bytes


@pytest.mark.parametrize(
    ("given_", "sent"), [(None, -1), (0, 0), (-1, -1), (INT32 - 1, INT32 - 1), (-INT32, -INT32)]
)
def test_versions(given_: int | None, sent: int) -> None:
    """None means any version; other 32-bit numbers are sent as they are (the counter wraps)."""
    assert verify.version(given_) == sent


@pytest.mark.parametrize(
    ("kinds", "mode"),
    [
        ({}, 0),
        ({"ephemeral": True}, 1),
        ({"sequential": True}, 2),
        ({"ephemeral": True, "sequential": True}, 3),
        ({"container": True}, 4),
        ({"ttl": 1}, 5),
        ({"ttl": 0.001, "sequential": True}, 6),
        ({"ttl": verify.MAX_TTL}, 5),
    ],
)
def test_create_modes(kinds: dict[str, Any], mode: int) -> None:
    """Each kind of znode has the server's `CreateMode`."""
    assert verify.create_flags(**kinds) == mode


@given(st.floats(min_value=0.001, max_value=verify.MAX_TTL))
def test_every_ttl_that_passes_can_be_sent(ttl: float) -> None:
    """Every accepted TTL fits the 40 bits that the server has for milliseconds."""
    verify.create_flags(ttl=ttl)
    body = messages.encode_create_ttl("/a", b"", acl.OPEN, 5, ttl)
    *_, sent = messages.CREATE_TTL.request.decode(body, 0, len(body))
    assert 1 <= sent <= 0xFFFFFFFFFF


@given(st.floats() | st.integers())
def test_every_session_timeout_that_passes_can_be_sent(value: float) -> None:
    """Any number either can be sent as a session timeout in milliseconds, or is refused by an error of
    ours."""
    try:
        timeout = verify.session_timeout(value)
    except VALUE:
        assert not 0.001 <= value < verify.SESSION_TIMEOUT_LIMIT
        return
    body = messages.encode_connect(0, timeout, 0, bytes(16))
    sent = messages.decode_connect(body, 0, len(body)).timeout
    assert sent > 0
    assert abs(sent - timeout) <= 0.0005


@given(st.lists(st.builds(Acl, st.builds(Perm, st.integers(0, 31)), st.text("ab"), st.text()), max_size=4))
def test_every_acl_that_passes_can_be_sent(entries: list[Acl]) -> None:
    """Any access control list is either sent as given, or refused by an error of ours."""
    try:
        checked = verify.acl(entries)
    except VALUE:
        assert entries == [] or any(not (entry.id.isascii() and entry.scheme) for entry in entries)
        return
    body = messages.encode_create("/a", b"", checked, 0)
    assert list(messages.CREATE.request.decode(body, 0, len(body))[2]) == entries


@pytest.mark.parametrize("limit", [1024, 0xFFFFF, INT32 - 1])
def test_sizes(limit: int) -> None:
    """Valid frame limits are accepted."""
    assert verify.size(limit, "max_request") == limit


@pytest.mark.parametrize("timeout", [0.001, 1, 10, 10.5, 999.999])
def test_times(timeout: float) -> None:
    """Times are seconds, with or without fractions; a tick may be as long as the session timeout."""
    assert verify.session_timeout(timeout) == verify.connect_timeout(timeout) == timeout
    assert verify.connect_timeout(None) is None
    assert verify.tick_time(timeout, timeout) == timeout
    assert verify.credentials([("digest", b"u:p")]) == [("digest", b"u:p")]


@pytest.mark.parametrize(
    ("chroot", "path", "sequential", "full"),
    [
        ("", "/a", False, "/a"),
        ("", "/a", True, "/a"),
        ("", "/a/", True, "/a/"),
        ("", "/", True, "/"),
        ("/app", "/", True, "/app/"),
        ("/app", "/a/", True, "/app/a/"),
        ("/app", "/", False, "/app"),
    ],
)
def test_new_paths(chroot: str, path: str, sequential: bool, full: str) -> None:
    """A sequential znode's name may consist of the number alone, so its path may end with '/'; no other path
    may."""
    assert verify.new_path(chroot, path, sequential=sequential) == full
