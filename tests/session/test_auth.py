"""Credentials: which ones are accepted, and that secrets do not leak."""

from __future__ import annotations

from typing import Any

import pytest

from corral import errors
from corral.session.auth import Credentials
from corral.wire import messages


@pytest.mark.parametrize(
    ("scheme", "secret", "error", "named"),
    [
        ("", b"u:p", errors.UsageValueError, "the scheme must be a name"),
        (None, b"u:p", errors.UsageTypeError, "the scheme must be a str, not NoneType"),
        (b"digest", b"u:p", errors.UsageTypeError, "the scheme must be a str, not bytes"),
        (b"u:p", "digest", errors.UsageTypeError, "the scheme must be a str, not bytes"),
        ("u:p", b"digest", errors.UsageValueError, "the scheme must be a name"),
        ("no colon", "digest", errors.UsageValueError, "the scheme must be a name"),
        ("dig\u00e9st", b"u:p", errors.UsageValueError, "the scheme must be a name"),
        ("digest", "u:p", errors.UsageTypeError, "bytes"),
        ("digest", None, errors.UsageTypeError, "bytes"),
        ("digest", bytearray(b"u:p"), errors.UsageTypeError, "bytearray"),
        ("digest", b"no colon", errors.UsageValueError, "':'"),
    ],
)
def test_what_cannot_be(scheme: Any, secret: Any, error: type[Exception], named: str) -> None:
    """S6: credentials that no server could accept are refused at once. The error says what is wrong with
    them, and does not contain the secret."""
    with pytest.raises(error) as caught:
        Credentials(scheme, secret)
    assert named in str(caught.value)
    assert '("digest", b"user:password")' in str(caught.value)
    for part in ("u:p", "no colon"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [("digest", b"user:pass:word"), ("digest", b":"), ("x509", b""), ("ip", b"\x00\xff")],
)
def test_what_is_sent(scheme: str, secret: bytes) -> None:
    """S6: the scheme and the secret are sent exactly as given; schemes other than digest take any bytes."""
    body = Credentials(scheme, secret).encode()
    assert messages.AUTH.request.decode(body, 0, len(body)) == (0, scheme, secret)


def test_the_secret_is_not_shown() -> None:
    """S6: logs do not contain the secret."""
    assert "hunter2" not in repr(Credentials("digest", b"user:hunter2"))
    assert "hunter2" not in repr(Credentials("hunter2", b"digest"))  # swapped: we cannot detect that


def test_they_are_held_to_the_frame_limit() -> None:
    """S7: credentials over the frame limit are refused before they are sent; the error does not contain
    them."""
    credentials = Credentials("digest", b"user:" + b"x" * 1000)
    credentials.check_size(len(credentials.encode()) + 8)
    with pytest.raises(errors.FrameTooLarge) as caught:
        credentials.check_size(len(credentials.encode()) + 7)
    assert "xxx" not in str(caught.value)
