"""What values are written as."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import corral
from corral.recipes.counter import LAYOUTS

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(JSON_VALUES)
def test_json_comes_back(value: Any) -> None:
    """What JSON can express comes back as it was, from data without needless spaces."""
    data = corral.JSON.encode(value)
    assert corral.JSON.decode(data) == value
    data.decode()


def test_json_is_compact_and_utf8() -> None:
    """No spaces, no escapes of what UTF-8 has, and the keys in their order."""
    assert corral.JSON.encode({"b": [1, 2.5], "a": "é"}) == '{"b":[1,2.5],"a":"é"}'.encode()


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], {"a": -math.inf}, "\ud800", {1, 2}, b"bytes", object()]
)
def test_what_json_refuses_to_write(value: Any) -> None:
    """NaN and infinities, what UTF-8 lacks, and what is not JSON."""
    with pytest.raises((TypeError, ValueError)):
        corral.JSON.encode(value)


@pytest.mark.parametrize(
    "data", [b"", b"NaN", b"[Infinity]", b"-Infinity", b"{", b"\xff\xfe1\x00", b"1 2", b"\xef\xbb\xbf1"]
)
def test_what_json_refuses_to_read(data: bytes) -> None:
    """What is not JSON in UTF-8."""
    with pytest.raises(ValueError):  # noqa: PT011
        corral.JSON.decode(data)


@given(st.binary())
def test_any_data_is_read_or_refused(data: bytes) -> None:
    """No data makes a codec of ours fail in another way, and what was read is written as what is read again."""
    for codec in (corral.BYTES, corral.TEXT, corral.JSON, *LAYOUTS.values()):
        try:
            value: Any = codec.decode(data)
        except ValueError:
            continue
        assert codec.decode(codec.encode(value)) == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(value: str) -> None:
    """As UTF-8."""
    assert corral.TEXT.encode(value) == value.encode()
    assert corral.TEXT.decode(value.encode()) == value


@pytest.mark.parametrize("name", LAYOUTS)
@given(number=st.integers(-(2**70), 2**70))
def test_numbers_come_back(name: str, number: int) -> None:
    """A counter's number comes back, or is refused where it does not fit."""
    codec = LAYOUTS[name]  # type: ignore[index]
    bits = {"curator": 63, "curator-int": 31}.get(name)
    if bits is None or -(2**bits) <= number < 2**bits:
        data = codec.encode(number)
        assert codec.has(data)
        assert codec.decode(data) == number
    else:
        with pytest.raises(ValueError, match="out of the range"):
            codec.encode(number)
