"""T2: DIGEST-MD5's directives and proofs, by the RFC's own examples and by their properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.session.sasl import digest_md5
from corral.session.sasl.digest_md5 import Login
from corral.wire.compile import DecodeError

# RFC 2831, section 4.
IMAP = Login(
    "chris",
    "secret",
    b"elwood.innosoft.com",
    b"imap/elwood.innosoft.com",
    b"OA6MG9tEQGm2hh",
    b"OA6MHXh6VqTrRk",
)
ACAP = Login(
    "chris",
    "secret",
    b"elwood.innosoft.com",
    b"acap/elwood.innosoft.com",
    b"OA9BSXrbuRhWay",
    b"OA9BSuZWMSpW8m",
)
CHALLENGE = (
    b'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",\r\n     algorithm=md5-sess,charset=utf-8'
)


@pytest.mark.parametrize(
    ("login", "response", "rspauth"),
    [
        (IMAP, b"d388dad90d4bbd760a152321f2143af7", b"ea40f60335c427b5527b84dbabcdfffd"),
        (ACAP, b"6084c6db3fede7352c551284490fd0fc", b"2f0b3d7c3c2e486600ef710726aa2eae"),
    ],
)
def test_the_proofs_of_the_rfc(login: Login, response: bytes, rspauth: bytes) -> None:
    """T2: both sides' proofs are those of RFC 2831, section 4."""
    assert login.response() == response
    assert login.rspauth() == rspauth


def test_the_challenge_of_the_rfc() -> None:
    """T2: a challenge with white space between its directives, and with values of both kinds."""
    assert digest_md5.parse(CHALLENGE) == {
        "realm": [b"elwood.innosoft.com"],
        "nonce": [b"OA6MG9tEQGm2hh"],
        "qop": [b"auth"],
        "algorithm": [b"md5-sess"],
        "charset": [b"utf-8"],
    }


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=10)
SPACES = st.text(" \t\r\n", max_size=2).map(str.encode)
COMMAS = st.tuples(SPACES, st.sampled_from([b",", b",,", b", ,"]), SPACES).map(b"".join)


@given(directives=st.lists(st.tuples(TOKENS, st.binary(max_size=20), SPACES, COMMAS)))
def test_what_is_quoted_is_read_again(directives: list[tuple[str, bytes, bytes, bytes]]) -> None:
    """T2: whatever bytes a value has, and whatever stands between directives, each is read as it was written."""
    text = b"".join(
        name.encode() + space + b"=" + space + digest_md5.quoted(value) + comma
        for name, value, space, comma in directives
    )
    expected: dict[str, list[bytes]] = {}
    for name, value, _, _ in directives:
        expected.setdefault(name, []).append(value)
    assert digest_md5.parse(text) == expected


@given(st.one_of(st.binary(max_size=200), st.text('abc="\\, \n', max_size=60).map(str.encode)))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    """T2, S7: no bytes lead to another error than `DecodeError`."""
    try:
        found = digest_md5.parse(text)
    except DecodeError:
        return
    assert all(name and values for name, values in found.items())


@given(data=st.data())
def test_a_malformed_challenge_is_refused(data: st.DataObject) -> None:
    """T2: a challenge that was cut off within a directive is refused, and not read in part."""
    ends = [at for at in range(1, len(CHALLENGE)) if CHALLENGE[at - 1 : at] in (b'"', b"=") or at in (3, 40)]
    at = data.draw(st.sampled_from(ends))
    text = CHALLENGE[:at]
    if text.count(b'"') % 2 == 0 and not text.endswith(b"="):
        text += b"x"  # behind a value
    with pytest.raises(DecodeError):
        digest_md5.parse(text)


def test_the_repr_has_no_secret() -> None:
    """T2: the repr of a login does not show its secret."""
    assert "chris" in repr(IMAP)
    assert "'secret'" not in repr(IMAP)
