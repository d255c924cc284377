"""Frames from a stream: four bytes of length, then that many bytes.

`Frames` is a buffer that a socket writes into (`asyncio.BufferedProtocol`) and that frames are read out of
in place: no copy is made before a value is decoded. It does no I/O.

Two limits, and what is behind them. A request over the server's `jute.maxbuffer` (1,048,575 bytes unless
configured) makes the server close the connection, so `DEFAULT_MAX_REQUEST` is exactly that. A reply may
be larger than any request: the list of a node's children grows with their number, and the server does not
limit what it sends. `DEFAULT_MAX_REPLY` only keeps a broken stream from eating the memory.
"""

from __future__ import annotations

import struct

DEFAULT_MAX_REQUEST = 0xFFFFF
DEFAULT_MAX_REPLY = 64 * 1024 * 1024

_unpack_length = struct.Struct(">i").unpack_from
_INITIAL = 64 * 1024
PEEK = 16
"""What a client looks at of an oversized frame, in bytes: the reply header, which says whose answer it is."""

NEED_DATA = -1
OVERSIZED = -2


class StreamError(Exception):
    """The bytes make no sense as a stream of frames: the connection cannot be used any more."""


class Frames:
    """The bytes received and not yet read. One frame is current at a time: `view[start:end]`."""

    def __init__(self, limit: int = DEFAULT_MAX_REPLY, *, peek: int = PEEK) -> None:
        self._limit = limit
        self._peek = peek
        self._buffer = bytearray(_INITIAL)
        self.view = memoryview(self._buffer)
        self.start = 0
        self._read = 0  # the first byte that is not yet part of a frame given out
        self._written = 0  # the first free byte
        self._skip = 0  # bytes of an oversized frame still to come, and to be thrown away

    def writable(self) -> memoryview:
        """The free end of the buffer, never empty. What was given out before is void after this."""
        if self._read == self._written:
            self._read = self._written = 0
            if len(self._buffer) > _INITIAL:
                self._replace(_INITIAL)
            return self.view
        needed = max(self._needed(), self._written - self._read + 1)
        if needed > len(self._buffer):
            self._replace(max(needed, 2 * len(self._buffer)))
        elif self._read + needed > len(self._buffer):
            self._compact()
        return self.view[self._written :]

    def wrote(self, count: int) -> None:
        """`count` bytes were written into what `writable` gave out."""
        self._written += count
        if self._skip:
            skipped = min(self._skip, self._written - self._read)
            self._skip -= skipped
            self._read += skipped

    def feed(self, data: bytes | bytearray) -> None:
        """Append bytes, copying them; for whoever has them already."""
        rest = memoryview(data)
        while rest:
            free = self.writable()
            count = min(len(free), len(rest))
            free[:count] = rest[:count]
            self.wrote(count)
            rest = rest[count:]

    def received_first(self) -> bytes:
        """The first bytes (at most 16) that are not part of a frame given out yet."""
        return bytes(self.view[self._read : min(self._written, self._read + PEEK)])

    def next(self) -> int:
        """Make the next frame current and return its `end`; `NEED_DATA` if it is not yet complete.

        `OVERSIZED` for a frame over the limit, once its first `peek` bytes are there: `start` is where
        they are, and `skip` throws the rest away as it comes. Raises `StreamError` for a negative length.
        """
        start = self._read + 4
        available = self._written - start
        if available < 0:
            return NEED_DATA
        length: int = _unpack_length(self._buffer, start - 4)[0]
        if 0 <= length <= self._limit:
            if length > available:
                return NEED_DATA
            self.start = start
            self._read = end = start + length
            return end
        if length < 0:
            raise StreamError(f"a frame of {length} bytes")
        self.start = start
        return OVERSIZED if available >= min(length, self._peek) else NEED_DATA

    def skip(self) -> int:
        """Throw the oversized frame away, now and as it comes; returns its length in bytes."""
        (length,) = _unpack_length(self._buffer, self._read)
        self._skip = 4 + length
        self.wrote(0)
        return int(length)

    def _needed(self) -> int:
        """How many bytes the frame that begins at `_read` takes, as far as that is known; at least 4."""
        available = self._written - self._read
        if available < 4:
            return 4
        (length,) = _unpack_length(self._buffer, self._read)
        return 4 + (self._peek if not 0 <= length <= self._limit else length)

    def _compact(self) -> None:
        count = self._written - self._read
        self.view[:count] = self.view[self._read : self._written]
        self._read, self._written = 0, count

    def _replace(self, size: int) -> None:
        kept = bytes(self.view[self._read : self._written])
        self._buffer = bytearray(size)
        self.view = memoryview(self._buffer)
        self.view[: len(kept)] = kept
        self._read, self._written = 0, len(kept)
