"""What the tests of locks share: a tap on the wire, coroutines struck at a step, the ways to lose a lock."""

from __future__ import annotations

import asyncio
import contextlib
import re
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, NamedTuple, TypeVar, cast

import corral
from corral.session.ensemble_probe import probe_zxid
from corral.testing import FaultProxy, Message, MessageKind
from corral.testing.servers.base import four_letter_word
from corral.wire import messages
from corral.wire.messages import Operation
from support import PATIENCE, children, turns, until

T = TypeVar("T")

LOCK_NAME = re.compile(
    r"_c_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-lock-(?P<number>\d{10}|-\d{9}|-[1-9]\d{9})"
)
"""Curator's name of a lock's node."""


async def within(awaitable: Awaitable[T]) -> T:
    """Its result, unless it hangs."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, however it ends."""
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    assert done, f"hangs: {task}"


async def until_line(client: corral.Client, path: str, length: int) -> list[str]:
    """Wait until so many nodes stand in a line, as `client` sees it; returns them."""
    names: list[str] = []

    async def there() -> bool:
        names[:] = await children(client, path)
        return len(names) == length

    try:
        await until(there, f"{length} nodes in {path}")
    except AssertionError:
        raise AssertionError(f"never were {length} nodes in {path}: {names}") from None
    return names


async def settle(client: corral.Client) -> None:
    """Let all that `client` has sent so far be carried out, or be certain never to be: a write of the same
    session, on whatever connection it has by now, is ordered behind it."""
    while True:
        try:
            await within(client.set("/", b""))
        except corral.ConnectionLoss:
            continue
        return


async def watched_paths(address: str) -> dict[str, list[str]]:
    """The server's watches: who (session ids) watches which path."""
    found: dict[str, list[str]] = {}
    sessions: list[str] = []
    for line in (await four_letter_word(address, "wchp")).splitlines():
        if line.startswith("/"):
            sessions = found[line] = []
        elif line.strip():
            sessions.append(line.strip())
    return found


# The wire


class Tap:
    """What comes to a proxy, in order: what a fault then loses too."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._news = asyncio.Event()

    def requests(self, start: int = 0, *, ours: bool = True) -> list[Operation]:
        """The operations asked for since message `start`, connecting aside; if only `ours`, pings and
        heartbeats too."""
        asked = [
            messages.OPERATIONS[message.opcode]
            for message in self.messages[start:]
            if message.kind is MessageKind.REQUEST and message.operation != "connect"
        ]
        return [each for each in asked if not ours or each not in (messages.PING, messages.MULTI)]

    def events(self, start: int = 0) -> list[Message]:
        """The notifications of watches since message `start`."""
        return [message for message in self.messages[start:] if message.kind is MessageKind.EVENT]

    async def seen(self, condition: Callable[[], object]) -> None:
        """Wait until what was recorded fulfils a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def password(self, session_id: int) -> bytes:
        """With which that session can be taken over."""
        greetings = [
            messages.decode_connect_reply(message.body, 0, len(message.body))
            for message in self.messages
            if message.kind is MessageKind.REPLY and message.operation == "connect"
        ]
        [password] = {reply.password for reply in greetings if reply.session_id == session_id}
        return password

    def note(self, message: Message) -> bool:
        """Record one, for `FaultProxy.record`, which cannot be waited for."""
        self.messages.append(message)
        self._news.set()
        return False


async def end_session(tap: Tap, address: str, session_id: int) -> None:
    """Have the server end a session as if it had expired: take it over, with the password that was seen on
    the wire, and close it."""
    host, _, port = address.rpartition(":")
    await probe_zxid(host, int(port), session_id, tap.password(session_id))


# Coroutines, step by step


@types.coroutine
def observed(
    coroutine: Coroutine[Any, Any, T], on_wait: Callable[[int, asyncio.Future[Any] | None], None]
) -> Generator[Any, Any, T]:
    """Run a coroutine, and call `on_wait` whenever it is about to wait: for the how-many-th time (from 0),
    and for what (None for one turn of the loop)."""
    step = 0
    error: BaseException | None = None
    while True:
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return cast(T, stop.value)
        on_wait(step, awaited)
        step += 1
        error = None
        try:
            yield awaited
        except BaseException as thrown:
            error = thrown


class Strike:
    """Cancels a task when its coroutine waits for the `step`-th time; with `when_done` in the tick in which
    what it waits for is there. `also` is called in the same tick."""

    def __init__(self, step: int, *, when_done: bool, also: Callable[[], object] = lambda: None) -> None:
        self.reached = False
        self.steps = 0
        """How often it has waited so far, counting the wait that it is in."""
        self._step = step
        self._when_done = when_done
        self._also = also
        self._task: asyncio.Task[Any] | None = None
        self.over = asyncio.Event()
        """It has struck, or the task was done before."""

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it in a task that is to be struck."""

        async def run() -> T:
            return await observed(coroutine, self._on_wait)

        self._task = asyncio.get_running_loop().create_task(run())
        self._task.add_done_callback(lambda _: self.over.set())
        return self._task

    def aim_at_next(self) -> None:
        """Strike at the next wait that begins."""
        self._step = self.steps

    def _on_wait(self, step: int, awaited: asyncio.Future[Any] | None) -> None:
        self.steps = step + 1
        if step != self._step:
            return
        if self._when_done and awaited is not None:
            awaited.add_done_callback(self._hit)  # before the task's own, which comes when this has returned
        else:
            asyncio.get_running_loop().call_soon(self._hit)

    def _hit(self, _: object = None) -> None:
        assert self._task is not None
        self.reached = True
        self.over.set()
        self._task.cancel()
        self._also()


async def struck(
    rig: Rig, step: int, coroutine: Coroutine[Any, Any, T], *, moment: str, cut: str = ""
) -> asyncio.Task[T] | None:
    """Cancel a coroutine at its `step`-th wait: "while it waits", or "as it is answered", in the tick in which what
    it waits for is there; with the connection of `rig.zk` cut in the same tick by FIN or RST, if asked for. It has to
    end at once. Returns None; or the task, if it needs no more steps than that, which then goes on."""
    cutting: list[asyncio.Task[None]] = []

    def also() -> None:
        if cut:
            cutting.append(asyncio.create_task(rig.proxy.cut(reset=cut == "RST")))

    strike = Strike(step, when_done=moment == "as it is answered", also=also)
    task = strike.start(coroutine)
    await within(strike.over.wait())
    await turns()
    if not strike.reached:
        return task
    assert task.cancelled()
    for each in cutting:
        await within(each)
    return None


# Losing what is held


class Rig(NamedTuple):
    """A client whose connection can be broken, an observer whose cannot, and what is between."""

    zk: corral.Client
    other: corral.Client
    proxy: FaultProxy
    tap: Tap
    server: str

    @contextlib.asynccontextmanager
    async def losing(self, how: str, node: str = "") -> AsyncIterator[None]:
        """What `zk` holds is being lost inside the block. `node`, without our chroot, for "deleted"."""
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
    """Append a word when the body is told to stop."""
    try:
        yield
    except asyncio.CancelledError:
        record.append(word)
        raise
