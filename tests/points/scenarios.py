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
from corral.testing.enumerators import InvariantViolated, Outcome, Run, Scenario
from support import PATIENCE, until
from watch_support import ChildrenMirror, TreeMirror, children_contents, contents, watching_sessions

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
        raise InvariantViolated(what)


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
                raise InvariantViolated(f"an error that nothing explains: {error!r}") from error

        return scenario

    return on


# What is taken in turn


class Recipe(NamedTuple):
    """Something that stands in line, and what is exclusive with it."""

    make: Callable[[corral.Client, str], Any]
    """The one that is struck."""
    rival: Callable[[corral.Client, str], Any]
    """One that holds it up, and gets it next."""
    lines: tuple[str, ...] = ("",)
    """The lines below its path; in the last one those stand who hold it."""


RECIPES = {
    "lock": Recipe(lambda zk, path: zk.lock(path), lambda zk, path: zk.lock(path)),
    "lock, kazoo's": Recipe(
        lambda zk, path: zk.lock(path, layout="kazoo"), lambda zk, path: zk.lock(path, layout="kazoo")
    ),
    "read lock": Recipe(lambda zk, path: zk.rwlock(path).read(), lambda zk, path: zk.rwlock(path).write()),
    "write lock": Recipe(lambda zk, path: zk.rwlock(path).write(), lambda zk, path: zk.rwlock(path).read()),
    "semaphore": Recipe(
        lambda zk, path: zk.semaphore(path, 1), lambda zk, path: zk.semaphore(path, 1), ("/locks", "/leases")
    ),
    "election": Recipe(lambda zk, path: zk.election(path), lambda zk, path: zk.election(path)),
}


async def _standing(client: corral.Client, line: str) -> list[tuple[str, int]]:
    """The nodes in a line, with the sessions that own them."""
    try:
        names = await client.children(line)
    except corral.NoNode:
        return []
    stats = [await client.exists(f"{line}/{name}") for name in names]
    return [(name, stat.ephemeral_owner) for name, stat in zip(names, stats, strict=True) if stat is not None]


async def _ours(stage: Stage, path: str, recipe: Recipe, session: int) -> list[str]:
    """The nodes in a recipe's lines that belong to a session."""
    return [
        f"{line}/{name}"
        for line in recipe.lines
        for name, owner in await _standing(stage.other, path + line)
        if owner == session
    ]


async def check_turn(
    stage: Stage,
    zk: corral.Client,
    recipe: Recipe,
    path: str,
    outcome: Outcome[corral.Held | None],
    *,
    may_fail: bool,
) -> None:
    """What must be true when an acquire has ended, however: what is held has one node of ours, and there is none
    if not; the next client gets it at once; and so do we."""
    await settled(zk)
    session = zk.session_id
    held = None if outcome.cancelled else outcome.result()
    if held is not None:
        require(held.is_valid, "acquired, and not valid")
        ours = await _ours(stage, path, recipe, session)
        require(
            len(ours) == 1 and held.node.endswith(path + ours[0]),
            f"acquired {held.node}, and ours in the line are {ours}",
        )
        await held.release()
    else:
        require(outcome.cancelled or may_fail, "an acquire has ended with nothing")
    await check_nothing_is_left(stage, zk, recipe, path, session)


async def check_nothing_is_left(
    stage: Stage, zk: corral.Client, recipe: Recipe, path: str, session: int
) -> None:
    """No node of ours is left while the session lives; the next client gets it at once; and so do we."""

    async def nothing_of_ours() -> bool:
        return not await _ours(stage, path, recipe, session)

    try:
        await until(nothing_of_ours, "", patience=stage.patience)
    except AssertionError:
        raise InvariantViolated(f"left in the line: {await _ours(stage, path, recipe, session)}") from None
    require(zk.session_id == session, "the session was lost")
    for who, next_one in (
        ("the next client", recipe.rival(stage.other, path)),
        ("we", recipe.make(zk, path)),
    ):
        try:
            async with asyncio.timeout(stage.patience), next_one:
                pass
        except TimeoutError:
            raise InvariantViolated(f"{who} cannot get it") from None


def acquiring(
    kind: str, way: str = "acquire", recipe: Recipe = RECIPES["lock"]
) -> Callable[[Stage], Scenario]:
    """One that is free, contended (held to the end by another), or handed over; its line new or there."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            async with contextlib.AsyncExitStack() as stack:
                zk = await stack.enter_async_context(stage.client())
                if kind != "no line":
                    for line in recipe.lines:
                        await stage.other.create(path + line, make_parents=True)
                ahead = None
                if kind in ("held", "handed over"):
                    ahead = await recipe.rival(stage.other, path).acquire()
                handing = None
                if kind == "handed over":
                    assert ahead is not None
                    handing = asyncio.create_task(hand_over(stage, path + recipe.lines[-1], ahead))
                outcome = await run.operation(getattr(recipe.make(zk, path), way)())
                if handing is not None:
                    handing.cancel()
                    await asyncio.wait([handing])
                if ahead is not None:
                    await ahead.release()
                may_fail = way == "try_acquire" and kind == "held"
                await check_turn(stage, zk, recipe, path, outcome, may_fail=may_fail)

        return scenario

    return on


async def hand_over(stage: Stage, line: str, ahead: corral.Held) -> None:
    """Release what is held as soon as another stands in line."""
    async for _ in _looks():
        if len(await _standing(stage.other, line)) > 1:
            await ahead.release()
            return


async def _looks() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        while True:
            yield
            await asyncio.sleep(0.002)


def downgrading(stage: Stage) -> Scenario:
    """A writer that becomes a reader while another writer waits: that one gets in when the reader lets go, and not
    before."""
    recipe = RECIPES["write lock"]

    async def scenario(run: Run) -> None:
        path = stage.path()
        async with stage.client() as zk:
            session = zk.session_id
            held = await zk.rwlock(path).write().acquire()
            waiting = asyncio.create_task(stage.other.rwlock(path).write().acquire())
            async for _ in _looks():
                if len(await _standing(stage.other, path)) > 1:
                    break
            outcome = await run.operation(held.downgrade())
            if not outcome.cancelled:
                outcome.result()
            await settled(zk)
            async for _ in _looks():  # cancelled, it goes on
                if held.is_downgraded:
                    break
            require(held.is_valid, "downgraded, and not valid")
            ours = await _ours(stage, path, recipe, session)
            require(len(ours) == 1 and "__READ__" in ours[0], f"downgraded, and ours in the line are {ours}")
            require(not waiting.done(), "a writer got in while we read")
            await held.release()
            async with asyncio.timeout(stage.patience):
                await (await waiting).release()
            await check_nothing_is_left(stage, zk, recipe, path, session)

    return scenario


def acquiring_several(kind: str) -> Callable[[Stage], Scenario]:
    """Two locks at once, both free, or the second one handed over: both are held in the end, or neither."""
    lock = RECIPES["lock"]

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            paths = [f"{path}/b", f"{path}/a"]
            for each in paths:
                await stage.other.create(each, make_parents=True)
            async with stage.client() as zk:
                session = zk.session_id
                handing = None
                if kind == "handed over":
                    ahead = await stage.other.lock(paths[0]).acquire()
                    handing = asyncio.create_task(hand_over(stage, paths[0], ahead))
                outcome = await run.operation(zk.multi_lock(paths).acquire())
                if handing is not None:
                    handing.cancel()
                    await asyncio.wait([handing])
                    await ahead.release()
                await settled(zk)
                if not outcome.cancelled:
                    for each, held in zip(paths, outcome.result(), strict=True):
                        require(held.is_valid and f"{each}/" in held.node, f"got {held.node} for {each}")
                        await held.release()
                for each in paths:
                    await check_nothing_is_left(stage, zk, lock, each, session)

        return scenario

    return on


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
            await check_turn(stage, zk, RECIPES["lock"], path, outcome, may_fail=True)

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
            await check_turn(stage, zk, RECIPES["lock"], path, Outcome(None, None, True), may_fail=True)

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


# Watches of several nodes, and caches


class Followed(NamedTuple):
    """Something that is followed, from when it is there (`before`) until all that is written has been told."""

    follow: Callable[[corral.Client, str, Any, asyncio.Event], Awaitable[None]]
    """Tell a mirror of each event until the last one is told; set the event when the first ones are."""
    mirror: Callable[[str], Any]
    truth: Callable[[corral.Client, str], Awaitable[Any]]
    before: Callable[[corral.Client, str], Awaitable[None]]
    write: Callable[[corral.Client, str], Awaitable[None]]


async def _nothing(zk: corral.Client, path: str) -> None:
    pass


async def _write_children(zk: corral.Client, path: str) -> None:
    await zk.create(path)
    await zk.create(f"{path}/a")
    await zk.delete(f"{path}/a")
    await zk.create(f"{path}/last")


async def _follow_children(
    zk: corral.Client, path: str, mirror: ChildrenMirror, started: asyncio.Event
) -> None:
    async with zk.watch_children(path) as events:
        async for event in events:
            mirror.take(event)
            if "last" in event.children:
                return
            started.set()


async def _wait_children(
    zk: corral.Client, path: str, mirror: ChildrenMirror, started: asyncio.Event
) -> None:
    def enough(event: corral.ChildrenEvent) -> bool:
        mirror.take(event)
        started.set()
        return "last" in event.children

    event = await zk.wait_children(path, enough)
    require("last" in event.children, f"waited for, and it is {event}")


async def _tree(zk: corral.Client, path: str) -> None:
    await zk.create(path)
    await zk.create(f"{path}/a")


async def _write_tree(zk: corral.Client, path: str) -> None:
    await zk.create(f"{path}/a/b")
    await zk.set(f"{path}/a", b"last")
    await zk.delete(f"{path}/a/b")
    await zk.set(path, b"last")


def _is_last(mirror: TreeMirror, path: str) -> bool:
    return {each: data for each, (data, _, _) in mirror.now.items()} == {path: b"last", f"{path}/a": b"last"}


async def _follow_tree(zk: corral.Client, path: str, mirror: TreeMirror, started: asyncio.Event) -> None:
    async with zk.watch_tree(path) as events:
        async for event in events:
            mirror.take(event)
            if _is_last(mirror, path):
                return
            if mirror.complete:
                started.set()


async def _write_once(zk: corral.Client, path: str) -> None:
    await zk.set(path, b"last")


async def _follow_cache(zk: corral.Client, path: str, mirror: TreeMirror, started: asyncio.Event) -> None:
    cache = zk.cache(path)
    try:
        async with cache:
            require(list(cache) == [path, f"{path}/a"], f"entered, and not complete: {list(cache)}")
            mirror.now = {each: (data, stat.czxid, stat.mzxid) for each, (data, stat) in cache.items()}
            mirror.complete = True
            started.set()
            async for event in cache.changes():
                mirror.take(event)
                require(cache[path] == (event.data, event.stat), f"told of {event}, and has {cache[path]}")
                return
    finally:
        require(not cache.is_current, "left, and still current")


FOLLOWED = {
    "watch_children": Followed(
        _follow_children, lambda _: ChildrenMirror(), children_contents, _nothing, _write_children
    ),
    "wait_children": Followed(
        _wait_children, lambda _: ChildrenMirror(), children_contents, _nothing, _write_children
    ),
    "watch_tree": Followed(_follow_tree, TreeMirror, contents, _tree, _write_tree),
    "cache": Followed(_follow_cache, TreeMirror, contents, _tree, _write_once),
}


def following(name: str) -> Callable[[Stage], Scenario]:
    """Who follows children or a tree ends up with the last state, and is told nothing older after something newer, and
    nothing twice; and whatever has happened, nothing stays registered, here or on the server."""
    follow, make_mirror, truth, before, write = FOLLOWED[name]

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            mirror = make_mirror(path)
            started = asyncio.Event()

            async def change() -> None:
                await started.wait()
                await write(stage.other, path)

            await before(stage.other, path)
            async with stage.client() as zk:
                writing = asyncio.create_task(change())
                outcome = await run.operation(follow(zk, path, mirror, started))
                started.set()
                await writing
                if not outcome.cancelled:
                    outcome.result()
                    now = await truth(stage.other, path)
                    require(mirror.now == now, f"the last state is {now}, and what was told {mirror.now}")
                left = len(zk._feeds), sum(zk.statistics().watches.values())
                require(left == (0, 0), f"feeds and watches are left: {left}")
                await settled(zk)
                assert stage.other.server is not None
                address, full = stage.other.server, zk.chroot_path + path

                async def nobody_watches() -> bool:
                    return await watching_sessions(address, full) == 0

                await until(nobody_watches, "the server has no watch left", patience=stage.patience)

        return scenario

    return on
