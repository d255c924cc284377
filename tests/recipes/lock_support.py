"""Helpers of the lock tests: a recorder of messages, and the ways to lose a lock."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import corral
from client_support import asks_for
from corral.session.ensemble_probe import probe_zxid
from corral.testing import FaultProxy, Message, MessageKind
from corral.testing.servers.base import four_letter_word
from corral.wire import messages
from corral.wire.messages import Operation
from line_kinds import PATH, LineKind
from support import PATIENCE, settle, until

T = TypeVar("T")


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, however it ends."""
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    assert done, f"hangs: {task}"


async def watched_paths(address: str) -> dict[str, list[str]]:
    """The server's watches: which session ids watch which path."""
    found: dict[str, list[str]] = {}
    sessions: list[str] = []
    for line in (await four_letter_word(address, "wchp")).splitlines():
        if line.startswith("/"):
            sessions = found[line] = []
        elif line.strip():
            sessions.append(line.strip())
    return found


# Messages


class Tap:
    """Records the messages that reach a proxy, in order, including those that a fault then drops."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.counts = Counter[Operation]()
        """How often each operation was requested. Unlike `requests`, it costs nothing to look at."""
        self.watched = set[str]()
        """The nodes that waiters, and holders from their first heartbeat, have set a data watch on."""
        self._news = asyncio.Event()

    def requests(self, start: int = 0, *, ours: bool = True) -> list[Operation]:
        """The operations requested since message `start`, except connecting. Pings and heartbeats are
        included only with `ours=False`."""
        asked = [
            messages.OPERATIONS[message.opcode]
            for message in self.messages[start:]
            if message.kind is MessageKind.REQUEST and message.operation != "connect"
        ]
        return [each for each in asked if not ours or each not in (messages.PING, messages.MULTI)]

    def events(self, start: int = 0) -> list[Message]:
        """The watch events since message `start`."""
        return [message for message in self.messages[start:] if message.kind is MessageKind.EVENT]

    async def seen(self, condition: Callable[[], object]) -> None:
        """Wait until the recorded messages meet a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def password(self, session_id: int) -> bytes:
        """The password of a session, with which a test can resume it."""
        greetings = [
            messages.decode_connect_reply(message.body, 0, len(message.body))
            for message in self.messages
            if message.kind is MessageKind.REPLY and message.operation == "connect"
        ]
        [password] = {reply.password for reply in greetings if reply.session_id == session_id}
        return password

    def note(self, message: Message) -> bool:
        """Record one message. It is a callback of `FaultProxy.record`, so it does not wait."""
        self.messages.append(message)
        if message.kind is MessageKind.REQUEST and message.operation != "connect":
            self.counts[messages.OPERATIONS[message.opcode]] += 1
            if message.opcode == messages.GET.opcode and message.body[-1] == 1:
                assert message.path is not None
                self.watched.add(message.path)
        self._news.set()
        return False


async def end_session(tap: Tap, address: str, session_id: int) -> None:
    """Make the server end a session as if it had expired: resume it with the recorded password, and close
    it."""
    host, _, port = address.rpartition(":")
    await probe_zxid(host, int(port), session_id, tap.password(session_id))


# Losing what is held


class Rig(NamedTuple):
    """A client whose connection can be broken, another one whose connection stays, and the proxy between."""

    zk: corral.Client
    other: corral.Client
    proxy: FaultProxy
    tap: Tap
    server: str

    @contextlib.asynccontextmanager
    async def away(self, how: str) -> AsyncIterator[None]:
        """Inside the block `zk` reaches no server: its connection is "cut" or "reset", is in a "black hole",
        or its session has "expired". The block ends when the client has noticed."""
        if how == "black hole":
            async with self.proxy.black_hole():
                yield

                async def noticed() -> bool:
                    return self.zk.state is corral.State.SUSPENDED

                await until(noticed, "the silence is noticed")
        else:
            async with self.proxy.refuse():
                if how == "expired":
                    await end_session(self.tap, self.server, self.zk.session_id)
                else:
                    await self.proxy.cut(reset=how == "reset")
                yield

    @contextlib.asynccontextmanager
    async def losing(self, how: str, node: str = "") -> AsyncIterator[None]:
        """Inside the block `zk` loses what it holds. `node`, a path without our chroot, is for "deleted"."""
        if how == "lapsed":
            async with self.proxy.black_hole():
                yield
        elif how == "expired":
            async with self.proxy.refuse():
                await end_session(self.tap, self.server, self.zk.session_id)
                yield
        elif how == "deleted":
            await self.other.delete(node)
            yield
        else:
            assert how == "closed"
            await self.zk.close()
            yield


WAYS_TO_LOSE = ["lapsed", "expired", "deleted", "closed"]


@contextlib.contextmanager
def noted(record: list[str], word: str) -> Iterator[None]:
    """Append a word when the body is cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        record.append(word)
        raise


async def until_watching(tap: Tap, start: int = 0) -> None:
    """Wait until a waiter has set a watch since message `start`."""
    is_read = asks_for(messages.GET, messages.CHILDREN)
    await tap.seen(lambda: any(is_read(each) and each.body[-1] == 1 for each in tap.messages[start:]))


async def assert_nothing_left(rig: Rig, kind: LineKind, session: int, path: str = PATH) -> None:
    """The session of `rig.zk` is alive and has no node in any line; another client can acquire the lock, and
    then `rig.zk` can."""
    await settle(rig.zk)
    assert rig.zk.session_id == session

    async def ours_gone() -> bool:
        return (await kind.owners(rig.other, path))[session] == 0

    await until(ours_gone, f"no node of ours in {path}")
    async with asyncio.timeout(PATIENCE):
        async with kind.opponent(rig.other, path):
            pass
        async with kind.make(rig.zk, path):
            pass
    await settle(rig.zk)
    assert await kind.owners(rig.other, path) == {}
