"""EmbeddedServer with clients that send arbitrary bytes: other clients are served as usual, and no error
escapes."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from typing import Any

from core_support import encoded
from frame_client import EPHEMERAL, PATIENCE, FrameClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral import acl
from corral.testing import EmbeddedServer, VirtualLoop
from corral.wire import messages as m

OPEN = list(acl.OPEN)
PATH = "/a"

VALID = [
    m.encode_connect(0, 4.0, 0, bytes(16), True),
    *(
        struct.pack(">ii", xid, operation.opcode) + encoded(operation, fields)
        for xid, (operation, fields) in enumerate(
            [
                (m.CREATE, (PATH, b"data", OPEN, 0)),
                (m.CREATE2, (f"{PATH}-", b"data", OPEN, 2)),
                (m.CREATE_CONTAINER, (f"{PATH}-c", b"", OPEN, 4)),
                (m.CREATE_TTL, (f"{PATH}-t", b"", OPEN, 5, 1000)),
                (m.SET, (PATH, b"more", -1)),
                (m.SET_ACL, (PATH, OPEN, -1)),
                (m.DELETE, (PATH, -1)),
                (m.GET, (PATH, True)),
                (m.EXISTS, (PATH, True)),
                (m.GET_ACL, (PATH,)),
                (m.CHILDREN, ("/", True)),
                (m.CHILDREN2, ("/", True)),
                (m.COUNT_ALL, ("/",)),
                (m.GET_EPHEMERALS, ("/",)),
                (m.SYNC, ("/",)),
                (m.CHECK, (PATH, 0)),
                (m.MULTI, ((m.CREATE, (PATH, b"", OPEN, 0)), (m.SET, (PATH, b"", 0)), (m.CHECK, (PATH, 1)))),
                (m.MULTI_READ, ((m.GET, (PATH, False)), (m.CHILDREN, ("/", False)))),
                (m.SET_WATCHES, (0, [PATH], [PATH], ["/"])),
                (m.SET_WATCHES2, (0, [PATH], [PATH], ["/"], [PATH], ["/"])),
                (m.ADD_WATCH, ("/", 1)),
                (m.CHECK_WATCHES, ("/", 3)),
                (m.REMOVE_WATCHES, ("/", 3)),
                (m.AUTH, (0, "digest", b"user:secret")),
                (m.SASL, (b"token",)),
                (m.WHO_AM_I, ()),
                (m.RECONFIG, ("", "", "", -1)),
                (m.PING, ()),
                (m.CLOSE, ()),
            ],
            1,
        )
    ),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid frame with some damage."""
    frame = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(frame)))
        match draw(st.sampled_from(["replace", "insert", "cut", "number"])):
            case "replace":
                frame[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "insert":
                frame[at:at] = draw(st.binary(min_size=1, max_size=20))
            case "cut":
                del frame[at : at + draw(st.integers(1, 20))]
            case "number":
                frame[at : at + 4] = struct.pack(">i", draw(st.integers(-(2**31), 2**31 - 1)))
    return bytes(frame)


FRAMES = st.lists(damaged(), max_size=12).map(
    lambda frames: b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)
)
CONNECT = struct.pack(">i", len(VALID[0])) + VALID[0]
STREAMS = st.one_of(
    st.binary(max_size=300),
    FRAMES,
    FRAMES.map(lambda stream: CONNECT + stream),
    st.tuples(FRAMES, st.binary(max_size=40)).map(lambda parts: CONNECT + b"".join(parts)),
)


@given(
    streams=st.lists(STREAMS, min_size=1, max_size=3),
    fragment=st.sampled_from([None, 1, 7, 100]),
    leaves=st.sampled_from(["reset", "half close", "stays"]),
    version=st.sampled_from(["3.8", "3.9"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nobody_else_notices(streams: list[bytes], fragment: int | None, leaves: str, version: Any) -> None:
    """Clients send arbitrary bytes, in arbitrary pieces, and leave in any way. The server may answer or not,
    but it continues, nothing reaches the event loop's exception handler, and another client is served as
    usual."""
    complaints: list[dict[str, Any]] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with EmbeddedServer(version=version, seed=1, tick_time=60) as server:
            async with FrameClient(server.address) as bystander:
                await bystander.begin(timeout=600)
                assert await bystander.create("/bystander", b"data", EPHEMERAL) == 0
                for stream in streams:
                    async with FrameClient(server.address) as hostile:
                        hostile.writer.write(stream)
                        if leaves == "half close":
                            hostile.writer.write_eof()
                            await hostile.rest()
                        elif leaves == "stays":
                            await asyncio.sleep(1)
                    assert await bystander.exists("/bystander")
                await asyncio.sleep(2)
                assert server.running
                assert len(server.zookeeper.connections) == 1
                process = server._process
                assert process is not None
                assert len(process._connections) == 1

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(fragment=fragment)) as runner:
        runner.run(test())
    assert complaints == []


def test_a_real_port_withstands_noise() -> None:
    """The same through sockets, with random bytes: each connection ends, or waits for more."""
    noise = random.Random(1)
    with EmbeddedServer(thread=True) as server:
        host, _, port = server.address.rpartition(":")
        for _ in range(300):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
                sock.sendall(noise.choice([b"", CONNECT]) + noise.randbytes(noise.randrange(200)))
                sock.shutdown(socket.SHUT_WR)
                try:
                    while sock.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            sock.sendall(b"ruok")
            assert sock.recv(10) == b"imok"
