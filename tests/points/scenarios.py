"""What is run at every point: each makes a fresh client behind a proxy, does one thing, and has an independent
observer, whose connection nobody cuts, check what must be true whatever has happened."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import corral
from corral.testing import FaultProxy
from corral.testing.enumerators import Broken, Outcome, Run, Scenario
from support import PATIENCE, until

Connect = Callable[..., corral.Client]
SESSION_TIMEOUT = 4.0


class Stage(NamedTuple):
    """Where scenarios play: below a znode of the test's own."""

    connect: Connect
    proxy: FaultProxy
    other: corral.Client
    """The observer."""
    numbers: itertools.count[int]
    patience: float = SESSION_TIMEOUT / 2
    """Seconds in which a node of ours is gone, and the next client has the lock: well within a session."""

    def path(self) -> str:
        """A path that nobody has used."""
        return f"/n-{next(self.numbers)}"

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[corral.Client]:
        """A fresh client behind the proxy. Its session is its only one, to the end."""
        async with self.connect(to=self.proxy.address, session_timeout=SESSION_TIMEOUT) as zk:
            session = zk.session_id
            yield zk
            require(zk.session_id == session, "the session was lost, though it need not have been")


def require(condition: object, what: str) -> None:
    """An invariant of a scenario's own."""
    if not condition:
        raise Broken(what)


async def settled(zk: corral.Client) -> None:
    """All that `zk` has sent is carried out, or never will be."""
    while True:
        try:
            await zk.set("/", b"")
        except corral.ConnectionLoss:
            continue
        return


# Connecting


def connecting(stage: Stage) -> Scenario:
    """Entering a client gives a session, or is cancelled; leaving it is quiet, and ends the session."""

    async def scenario(run: Run) -> None:
        zk = stage.connect(to=stage.proxy.address, session_timeout=SESSION_TIMEOUT)
        outcome = await run.operation(zk.__aenter__())
        if not outcome.cancelled:
            outcome.result()
            path = stage.path()
            with contextlib.suppress(corral.ConnectionLoss):
                await zk.create(path, ephemeral=True)
        await zk.close()
        require(zk.state is corral.State.CLOSED, f"closed, the client is {zk.state}")

    return scenario


# The client's operations


class Operation(NamedTuple):
    """One verb on a node that has data b"old" at version 0, and no children."""

    call: Callable[[corral.Client, str], Awaitable[Any]]
    times: Callable[[corral.Client, str], Awaitable[int]] | None
    """How often it was applied, as others see it; None for reads."""
    again: bool = False
    """Whether it is made of several requests, each of which changes nothing when it is repeated."""


async def _created(zk: corral.Client, path: str) -> int:
    """How many children were ever created, whatever was deleted: the next sequential number tells."""
    probe = await zk.create(f"{path}/probe-", sequential=True)
    return int(probe[-10:])


async def _sets(zk: corral.Client, path: str) -> int:
    stat = await zk.exists(path)
    require(stat is not None, "the node is gone")
    assert stat is not None
    return stat.version


async def _acl_sets(zk: corral.Client, path: str) -> int:
    return (await zk.get_acl(path))[1].aversion


async def _deletes(zk: corral.Client, path: str) -> int:
    return int(await zk.exists(path) is None)


async def _transactions(zk: corral.Client, path: str) -> int:
    sets, created = await _sets(zk, path), await _created(zk, path)
    require(sets == created, f"of one transaction {sets} sets and {created} creates were applied")
    return sets


async def _transact(zk: corral.Client, path: str) -> list[Any]:
    async with zk.transaction() as tx:
        tx.check(path, version=0)
        tx.set(path, b"new")
        tx.create(f"{path}/s-", sequential=True)
    return list(tx.results)


async def _made(zk: corral.Client, path: str) -> int:
    return int(await zk.exists(f"{path}/a/b") is not None)


OPERATIONS = {
    "get": Operation(lambda zk, path: zk.get(path), None),
    "exists": Operation(lambda zk, path: zk.exists(path), None),
    "children": Operation(lambda zk, path: zk.children(path, with_stat=True), None),
    "get_acl": Operation(lambda zk, path: zk.get_acl(path), None),
    "sync": Operation(lambda zk, path: zk.sync(path), None),
    "create": Operation(lambda zk, path: zk.create(f"{path}/a", b"x"), _created),
    "create sequential": Operation(lambda zk, path: zk.create(f"{path}/s-", sequential=True), _created),
    "create ephemeral": Operation(
        lambda zk, path: zk.create(f"{path}/e", ephemeral=True, with_stat=True), _created
    ),
    "create container": Operation(lambda zk, path: zk.create(f"{path}/c", container=True), _created),
    "create with parents": Operation(lambda zk, path: zk.create(f"{path}/a/b", make_parents=True), _made),
    "set": Operation(lambda zk, path: zk.set(path, b"new"), _sets),
    "set a version": Operation(lambda zk, path: zk.set(path, b"new", version=0), _sets),
    "set_acl": Operation(lambda zk, path: zk.set_acl(path, corral.OPEN_ACL), _acl_sets),
    "delete": Operation(lambda zk, path: zk.delete(path), _deletes),
    "delete recursive": Operation(lambda zk, path: zk.delete(path, recursive=True), _deletes),
    "transaction": Operation(_transact, _transactions),
}


def operating(name: str) -> Callable[[Stage], Scenario]:
    """An operation that returns was applied once; one that is refused was not; one whose outcome is unknown
    was applied once or not at all. A read is never lost."""
    call, times, _ = OPERATIONS[name]

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            await stage.other.create(path, b"old")
            async with stage.client() as zk:

                async def operation() -> Any:
                    return await call(zk, path)

                outcome = await run.operation(operation())
                await settled(zk)
                await stage.other.sync()
                check(outcome, await times(stage.other, path) if times is not None else None)

        def check(outcome: Outcome[Any], applied: int | None) -> None:
            error = outcome.error
            if applied is None:
                require(error is None, f"a read has failed: {error!r}")
            elif outcome.cancelled or isinstance(error, corral.ConnectionLoss):
                require(applied in (0, 1), f"its outcome is unknown, and it was applied {applied} times")
            elif error is None:
                require(applied == 1, f"it has succeeded, and was applied {applied} times")
            else:
                raise Broken(f"an error that nothing explains: {error!r}") from error

        return scenario

    return on


# The lock


async def _ours(stage: Stage, path: str, session: int) -> list[str]:
    """The nodes in a line that belong to a session."""
    try:
        return [
            contender.name
            for contender in await stage.other.lock(path).contenders()
            if contender.stat.ephemeral_owner == session
        ]
    except corral.NoNode:
        return []


async def check_lock(
    stage: Stage,
    zk: corral.Client,
    lock: corral.Lock,
    outcome: Outcome[corral.Held | None],
    *,
    may_fail: bool,
) -> None:
    """What must be true when an acquire has ended, however: a lock that is held has one node of ours, and
    none if not; the next client gets it at once; and so do we."""
    await settled(zk)
    session = zk.session_id
    held = None if outcome.cancelled else outcome.result()
    if held is not None:
        require(held.is_valid, "acquired, and not valid")
        ours = await _ours(stage, lock.path, session)
        require(
            ours == [held.node.rpartition("/")[2]], f"acquired {held.node}, and ours in the line are {ours}"
        )
        await held.release()
    else:
        require(outcome.cancelled or may_fail, "an acquire has ended with nothing")

    async def nothing_of_ours() -> bool:
        return not await _ours(stage, lock.path, session)

    try:
        await until(nothing_of_ours, "", patience=stage.patience)
    except AssertionError:
        raise Broken(f"left in the line: {await _ours(stage, lock.path, session)}") from None
    require(zk.session_id == session, "the session was lost")
    for who, next_one in (("the next client", stage.other.lock(lock.path)), ("we", lock)):
        try:
            async with asyncio.timeout(stage.patience), next_one:
                pass
        except TimeoutError:
            raise Broken(f"{who} cannot get the lock") from None


MakeLock = Callable[[corral.Client, str], corral.Lock]


def acquiring(
    kind: str, way: str = "acquire", make: MakeLock = lambda zk, path: zk.lock(path)
) -> Callable[[Stage], Scenario]:
    """A lock that is free, contended (held to the end by another), or handed over; its line new or there."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            async with contextlib.AsyncExitStack() as stack:
                zk = await stack.enter_async_context(stage.client())
                if kind != "no line":
                    await stage.other.create(path)
                lock = make(zk, path)
                ahead = await stage.other.lock(path).acquire() if kind in ("held", "handed over") else None
                handing = None
                if kind == "handed over":
                    assert ahead is not None
                    handing = asyncio.create_task(hand_over(stage, path, ahead))
                outcome = await run.operation(getattr(lock, way)())
                if handing is not None:
                    handing.cancel()
                    await asyncio.wait([handing])
                if ahead is not None:
                    await ahead.release()
                await check_lock(stage, zk, lock, outcome, may_fail=way == "try_acquire" and kind == "held")

        return scenario

    return on


async def hand_over(stage: Stage, path: str, ahead: corral.Held) -> None:
    """Release the lock as soon as another stands in line."""
    async for _ in _looks():
        if len(await stage.other.lock(path).contenders()) > 1:
            await ahead.release()
            return


async def _looks() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        while True:
            yield
            await asyncio.sleep(0.002)


def giving_up(stage: Stage) -> Scenario:
    """An acquire of a lock that stays held ends by its caller's timeout, and leaves nothing."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        await stage.other.create(path)
        async with stage.client() as zk, stage.other.lock(path):
            lock = zk.lock(path)

            async def give_up() -> corral.Held | None:
                async with asyncio.timeout(None) as scope:
                    acquiring = lock.acquire()
                    watcher = asyncio.create_task(expire_when_it_waits(scope))
                    try:
                        return await acquiring
                    finally:
                        watcher.cancel()
                        await asyncio.wait([watcher])

            async def expire_when_it_waits(scope: asyncio.Timeout) -> None:
                async for _ in _looks():
                    if len(await stage.other.lock(path).contenders()) > 1:
                        scope.reschedule(asyncio.get_running_loop().time())
                        return

            outcome = await run.operation(give_up())
            require(isinstance(outcome.error, TimeoutError), f"given up, it ended with {outcome}")
            outcome = Outcome(None, None, True)
        async with stage.client() as zk:
            await check_lock(stage, zk, zk.lock(path), outcome, may_fail=True)

    return scenario


def holding(stage: Stage) -> Scenario:
    """``async with`` on a free lock: the body runs while it is held, and nothing is left behind it."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        await stage.other.create(path)
        async with stage.client() as zk:
            lock = zk.lock(path)

            async def hold() -> None:
                async with lock as held:
                    require(held.is_valid, "not valid inside")
                    await zk.exists(path)
                    require(held.is_valid, "not valid inside")

            outcome = await run.operation(hold())
            if not outcome.cancelled:
                outcome.result()
            await check_lock(stage, zk, lock, Outcome(None, None, True), may_fail=True)

    return scenario


# The watch


def watching(stage: Stage) -> Scenario:
    """A watch of a node that is created, changed, deleted and created again ends up with the last state, and
    is never told an older one after a newer one; nor one twice."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        seen: list[tuple[bytes | None, int]] = []

        async def follow() -> None:
            async with zk.watch(path) as events:
                async for event in events:
                    seen.append((event.data, event.stat.mzxid if event.stat else 0))
                    if event.data == b"last":
                        return
                    started.set()

        async def write() -> None:
            await started.wait()
            await stage.other.create(path, b"1")
            await stage.other.set(path, b"2")
            await stage.other.delete(path)
            await stage.other.create(path, b"last")

        started = asyncio.Event()
        async with stage.client() as zk:
            writing = asyncio.create_task(write())
            outcome = await run.operation(follow())
            started.set()
            await writing
            if not outcome.cancelled:
                outcome.result()
                require(seen[-1][0] == b"last", f"never told the last state: {seen}")
            zxids = [zxid for _, zxid in seen if zxid]
            require(zxids == sorted(set(zxids)), f"went backwards, or twice: {seen}")
            require(all(one != two for one, two in itertools.pairwise(seen)), f"told twice in a row: {seen}")

    return scenario
