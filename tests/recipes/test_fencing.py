"""Fencing: the writes of a holder that was paused for longer than its session lasts are refused (L5)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable

import pytest

import corral
from support import PATIENCE, within

HOLDER = """
import asyncio
import sys

import corral

MAKE = {
    "lock": lambda zk: zk.lock("/turn"),
    "write lock": lambda zk: zk.rwlock("/turn").write(),
    "downgraded": lambda zk: zk.rwlock("/turn").write(),
    "semaphore": lambda zk: zk.semaphore("/turn", 1),
    "election": lambda zk: zk.election("/turn"),
}


async def main(address, what):
    async with corral.connect(address, session_timeout=2) as zk:
        held = await MAKE[what](zk).acquire()
        if what == "downgraded":
            await held.downgrade()
        async with held.transaction() as tx:
            tx.set("/value", b"in time")
        print(held.fencing_token, flush=True)
        sys.stdin.readline()  # blocks all of it: this is where it is paused
        try:
            async with held.transaction() as tx:
                tx.set("/value", b"late")
        except (corral.SessionError, corral.ConnectionLoss) as error:
            print(type(error).__name__, flush=True)
        else:
            print("applied", flush=True)


asyncio.run(main(*sys.argv[1:]))
"""

MAKE: dict[
    str, Callable[[corral.Client], corral.Lock | corral.WriteLock | corral.Semaphore | corral.Election]
] = {
    "lock": lambda zk: zk.lock("/turn"),
    "write lock": lambda zk: zk.rwlock("/turn").write(),
    "downgraded": lambda zk: zk.rwlock("/turn").write(),
    "semaphore": lambda zk: zk.semaphore("/turn", 1),
    "election": lambda zk: zk.election("/turn"),
}


REFUSED = (b"LockLost", b"SessionExpired", b"ConnectionLoss")
"""How a holder learns of it: by its clock, from the server, or because the connection of its old session
ends."""


@contextlib.asynccontextmanager
async def holder(address: str, what: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that holds the lock, and is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        address,
        what,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("what", MAKE)
async def test_a_late_write_is_refused(
    real_time: None, server_address: str, root: str, zk: corral.Client, what: str
) -> None:
    """L5: a process is stopped (SIGSTOP) until its session is over, and then continues unaware of that. Its
    write is refused, and the new holder has a greater token."""
    await zk.create("/value", b"")
    async with holder(f"{server_address}{root}", what) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        token = int(await within(process.stdout.readline()))
        assert (await zk.get("/value"))[0] == b"in time"
        os.kill(process.pid, signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE), MAKE[what](zk) as held:
            assert held.fencing_token > token
            async with held.transaction() as tx:
                tx.set("/value", b"mine")
            os.kill(process.pid, signal.SIGCONT)
            process.stdin.write(b"\n")
            assert (await within(process.stdout.readline())).strip() in REFUSED
            assert (await zk.get("/value"))[0] == b"mine"
        assert await within(process.wait()) == 0
