"""`Frames`: in whatever pieces a stream arrives, and however late it is read, the same frames are
returned."""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jute import property_test
from recording import Recording, connection

from corral.wire import messages
from corral.wire.framing import (
    DEFAULT_MAX_REPLY,
    DEFAULT_MAX_REQUEST,
    NEED_DATA,
    OVERSIZED,
    Frames,
    StreamError,
)
from support import PATIENCE

INITIAL = len(Frames().writable())
"""The size of the buffer before it grows."""

LIMIT = 3 * INITIAL

PEEK = 16
"""How much of an oversized frame is available."""


def frame(content: bytes) -> bytes:
    """A frame as in a stream."""
    return struct.pack(">i", len(content)) + content


def content_of(length: int, seed: int = 0) -> bytes:
    """Bytes that vary with the position and the frame."""
    return random.Random(f"{length} {seed}").randbytes(length)


def write(frames: Frames, data: bytes) -> None:
    """Receive as a socket does: straight into the buffer, each time as much as there is room for."""
    rest = memoryview(data)
    while rest:
        room = frames.writable()
        assert len(room) > 0
        count = min(len(room), len(rest))
        room[:count] = rest[:count]
        frames.wrote(count)
        rest = rest[count:]


def read_one(frames: Frames) -> bytes | int | None:
    """The content of the next frame; the length of an oversized one, which is skipped; None if there is no
    complete frame."""
    end = frames.next()
    if end == NEED_DATA:
        return None
    if end == OVERSIZED:
        peeked = bytes(frames.view[frames.start : frames.start + PEEK])
        size = frames.skip()
        assert peeked[: min(size, PEEK)] == content_of(size)[:PEEK]
        return size
    return bytes(frames.view[frames.start : end])


def read_all(frames: Frames) -> Iterator[bytes | int]:
    """All complete frames."""
    while (found := read_one(frames)) is not None:
        yield found


def receive(pieces: Iterable[bytes], limit: int = LIMIT) -> list[bytes | int]:
    """The frames of a stream that arrives in these pieces, and is read after each."""
    frames = Frames(limit)
    found: list[bytes | int] = []
    for piece in pieces:
        write(frames, piece)
        found.extend(read_all(frames))
    return found


def one_by_one(data: bytes) -> Iterator[bytes]:
    """The stream byte by byte."""
    return (data[at : at + 1] for at in range(len(data)))


# Pieces

SOME = [b"", b"a", content_of(15), content_of(16), content_of(17), b"", content_of(300)]


def test_whole() -> None:
    """Frames that arrive together are returned one after the other."""
    assert receive([b"".join(map(frame, SOME))]) == SOME


def test_byte_by_byte() -> None:
    """A frame is returned once its last byte has arrived, and not before."""
    frames = Frames()
    for content in SOME:
        *early, last = one_by_one(frame(content))
        for byte in early:
            write(frames, byte)
            assert frames.next() == NEED_DATA
        write(frames, last)
        assert read_one(frames) == content
        assert frames.next() == NEED_DATA


def test_with_a_tail() -> None:
    """The received part of the next frame is kept, however often frames are requested."""
    frames = Frames()
    second = frame(b"second")
    for cut in range(len(second)):
        write(frames, frame(b"first") + second[:cut])
        assert read_one(frames) == b"first"
        assert [frames.next() for _ in range(3)] == [NEED_DATA] * 3
        write(frames, second[cut:])
        assert read_one(frames) == b"second"


def test_feed_copies() -> None:
    """`feed` appends a copy of bytes: later changes to them have no effect."""
    frames = Frames()
    data = bytearray(frame(b"as it was") + frame(content_of(2 * INITIAL)))
    frames.feed(bytes(data))
    data[:] = bytes(len(data))
    assert list(read_all(frames)) == [b"as it was", content_of(2 * INITIAL)]


def test_frames_are_read_in_place() -> None:
    """No copy is made: a frame is a range of the buffer that the socket wrote into."""
    frames = Frames()
    room = frames.writable()
    write(frames, frame(b"in place"))
    end = frames.next()
    assert bytes(frames.view[frames.start : end]) == b"in place"
    room[4:12] = b"the same"
    assert bytes(frames.view[frames.start : end]) == b"the same"


@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
def test_a_real_conversation(pieces: str) -> None:
    """The bytes that a real server sent on one connection are split into the captured frames."""
    recording = Recording.load(Path(__file__).parent / "golden" / "standalone.json")
    sent = [
        content for exchange in recording.exchanges.values() for content in (*exchange.events, exchange.reply)
    ]
    stream = b"".join(map(frame, sent))
    assert receive([stream] if pieces == "whole" else one_by_one(stream)) == sent


# Sizes

SIZES = [INITIAL - 5, INITIAL - 4, INITIAL - 3, INITIAL, 2 * INITIAL, LIMIT - 1, LIMIT]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [1000, INITIAL, 10 * INITIAL])
def test_frames_larger_than_the_buffer(size: int, chunk: int) -> None:
    """The buffer grows for a frame that does not fit; data before and after it is unchanged."""
    contents = [b"before", content_of(size), b"between", content_of(size, 1), b"after"]
    stream = b"".join(map(frame, contents))
    assert receive(stream[at : at + chunk] for at in range(0, len(stream), chunk)) == contents


def test_memory_is_given_back() -> None:
    """The buffer has its initial size again once a large frame has been read."""
    frames = Frames()
    write(frames, frame(content_of(20 * INITIAL)))
    assert read_one(frames) == content_of(20 * INITIAL)
    assert len(frames.writable()) == INITIAL


def test_many_unread_frames() -> None:
    """Frames that are not read yet are all kept."""
    frames = Frames()
    contents = [content_of(size) for size in range(1000)]
    for content in contents:
        write(frames, frame(content))
    assert list(read_all(frames)) == contents


def test_a_slow_reader_costs_no_memory() -> None:
    """If a frame is always incomplete, the buffer is reused and does not grow."""
    frames = Frames()
    stream = frame(content_of(1000)) * 1000
    for at in range(0, len(stream), 700):
        write(frames, stream[at : at + 700])
        assert set(read_all(frames)) <= {content_of(1000)}
        assert len(frames.writable()) <= INITIAL


# Over the limit


@pytest.mark.parametrize("size", [LIMIT + 1, 10 * LIMIT])
@pytest.mark.parametrize("chunk", [777, INITIAL, 20 * LIMIT])
def test_oversized_frames(size: int, chunk: int) -> None:
    """S7: a frame over the limit is reported once, with its length, and discarded as it arrives; the stream
    continues after it."""
    stream = frame(b"before") + frame(content_of(size)) + frame(b"after") + frame(b"and on")
    pieces = (stream[at : at + chunk] for at in range(0, len(stream), chunk))
    assert receive(pieces) == [b"before", size, b"after", b"and on"]


def test_oversized_frames_take_no_memory() -> None:
    """S7: discarded bytes are never kept."""
    frames = Frames(LIMIT)
    piece = content_of(INITIAL)
    write(frames, struct.pack(">i", 2**31 - 1) + piece)
    assert frames.next() == OVERSIZED
    assert frames.skip() == 2**31 - 1
    for _ in range(100):
        write(frames, piece)
        assert frames.next() == NEED_DATA
        assert len(frames.writable()) <= INITIAL


def test_oversized_frames_say_whose_they_are() -> None:
    """S7: an oversized frame is reported as soon as its reply header has arrived, before the rest."""
    frames = Frames(LIMIT)
    header = messages.REPLY_HEADER.pack(7, 8, 0)
    *early, last = one_by_one(struct.pack(">i", LIMIT + 1) + header)
    for byte in early:
        write(frames, byte)
        assert frames.next() == NEED_DATA
    write(frames, last)
    assert frames.next() == OVERSIZED
    assert messages.REPLY_HEADER.unpack_from(frames.view, frames.start) == (7, 8, 0)


@pytest.mark.parametrize("size", [5, 15, 16, 17])
def test_oversized_frames_shorter_than_a_header(size: int) -> None:
    """If the limit is smaller than a header, the received part of the frame is available."""
    stream = frame(b"1234") + frame(content_of(size)) + frame(b"5678")
    expected = [b"1234", size, b"5678"]
    assert receive(one_by_one(stream), limit=4) == expected
    assert receive([stream], limit=4) == expected


def test_the_limit_itself_is_allowed() -> None:
    """The limit applies to the frame without its length."""
    assert receive([frame(content_of(LIMIT)) + frame(content_of(LIMIT + 1))]) == [
        content_of(LIMIT),
        LIMIT + 1,
    ]


# Invalid lengths


@pytest.mark.parametrize("length", [-1, -2, -(2**31)])
@pytest.mark.parametrize("behind", [b"", b"anything" * 100])
def test_negative_lengths(length: int, behind: bytes) -> None:
    """S7: a negative length makes the stream invalid, now and on each later call; frames before it are
    returned."""
    frames = Frames()
    write(frames, frame(b"before") + struct.pack(">i", length) + behind)
    assert read_one(frames) == b"before"
    for _ in range(3):
        with pytest.raises(StreamError, match=str(length)):
            frames.next()
        assert len(frames.writable()) > 0  # the socket may deliver more before it is closed


# Against a model

_sizes = st.one_of(
    st.integers(0, 40), st.sampled_from([*SIZES, LIMIT + 1, LIMIT + 100, 4 * LIMIT]), st.integers(0, LIMIT)
)
_turns = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 30), st.integers(1, 3 * INITIAL), st.just(20 * LIMIT)),  # bytes to write
        st.integers(0, 4) | st.none(),  # frames to read then; None: all
    ),
    max_size=40,
)


@given(sizes=st.lists(_sizes, max_size=8), turns=_turns)
@settings(property_test, max_examples=200)
def test_against_a_model(sizes: list[int], turns: list[tuple[int, int | None]]) -> None:
    """However the stream is split, and however many frames are read in between, they are returned in order,
    none early and none late."""
    stream = b"".join(frame(content_of(size)) for size in sizes)
    starts = itertools.accumulate((4 + size for size in sizes), initial=0)
    # How much of the stream must have arrived for each frame to be reported.
    due = [start + 4 + (size if size <= LIMIT else PEEK) for start, size in zip(starts, sizes, strict=False)]
    frames = Frames(LIMIT)
    written, found = 0, 0
    for count, reads in [*turns, (len(stream), None)]:
        write(frames, stream[written : written + count])
        written = min(written + count, len(stream))
        while reads is None or reads > 0:
            got = read_one(frames)
            if got is None:
                assert found == len(sizes) or due[found] > written
                break
            assert due[found] <= written
            size = sizes[found]
            assert got == (content_of(size) if size <= LIMIT else size)
            found += 1
            reads = None if reads is None else reads - 1
    assert found == len(sizes)


# The limits


def test_default_limits() -> None:
    """A reply may be larger than any request: a long list of children is."""
    assert DEFAULT_MAX_REPLY > DEFAULT_MAX_REQUEST
    assert receive([frame(content_of(DEFAULT_MAX_REQUEST + 1))], DEFAULT_MAX_REPLY) == [
        content_of(DEFAULT_MAX_REQUEST + 1)
    ]


@pytest.mark.parametrize("over", [0, 1])
async def test_the_largest_request(server_address: str, over: int) -> None:
    """S7: a request of `DEFAULT_MAX_REQUEST` bytes is the largest that a server with the default
    configuration accepts; after a larger one it closes the connection without an answer."""
    head = struct.pack(">ii", 1, messages.EXISTS.opcode)
    padding = DEFAULT_MAX_REQUEST + over - len(head) - len(messages.encode_exists("/", False))
    request = head + messages.encode_exists("/" + "a" * padding, False)
    assert len(request) == DEFAULT_MAX_REQUEST + over
    async with asyncio.timeout(PATIENCE), connection(server_address) as wire:
        wire.send(messages.encode_connect(0, 10.0, 0, bytes(16)))
        await wire.receive()
        wire.send(request)
        if not over:
            assert messages.REPLY_HEADER.unpack_from(await wire.receive())[0] == 1
        else:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await wire.receive()
