"""The scenarios that run at every point. Each makes a new client behind a proxy and does one thing. Then an
independent observer, whose connection is never cut, checks the invariants."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import corral
from corral.testing import FaultProxy, before, committed
from corral.testing.enumerators import Choose, InvariantViolated, Outcome, Run, Scenario
from line_kinds import KINDS, LineKind, is_valid, nodes_below, release
from support import PATIENCE, settle, turns, until
from watch_support import ChildrenMirror, TreeMirror, children_contents, contents, watching_sessions

Connect = Callable[..., corral.Client]
SESSION_TIMEOUT = 4.0


class Stage(NamedTuple):
    """Where a scenario runs: below a znode of the test's own."""

    connect: Connect
    proxy: FaultProxy
    other: corral.Client
    """The observer."""
    numbers: itertools.count[int]
    patience: float = SESSION_TIMEOUT / 2
    """Seconds in which a node of ours must be gone, and the next client must have the lock: well within a
    session."""
    choose: Choose = list
    """Chooses of all points those that are tried."""

    def path(self) -> str:
        """A path that is not used yet."""
        return f"/n-{next(self.numbers)}"

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[corral.Client]:
        """A new client behind the proxy. It must keep its first session to the end."""
        async with self.connect(to=self.proxy.address, session_timeout=SESSION_TIMEOUT) as zk:
            session = zk.session_id
            yield zk
            require(zk.session_id == session, "the session was lost, though it need not have been")


def require(condition: object, what: str) -> None:
    """Check an invariant of a scenario."""
    if not condition:
        raise InvariantViolated(what)


# Connecting


def connecting(stage: Stage) -> Scenario:
    """Entering a client gives a session, or is cancelled; leaving it raises and logs nothing, and ends the
    session."""

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
    """One verb on a node with data b"old" at version 0, and no children."""

    call: Callable[[corral.Client, str], Awaitable[Any]]
    times: Callable[[corral.Client, str], Awaitable[int]] | None
    """How often it was applied, as another client sees it; None for reads."""
    again: bool = False
    """Whether it consists of several requests, each of which can be repeated without effect."""


async def _created(zk: corral.Client, path: str) -> int:
    """How many children were ever created, including deleted ones, by the next sequential number."""
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


async def _who(zk: corral.Client) -> object:
    """Who one is, or that ZooKeeper 3.6 does not tell."""
    with contextlib.suppress(corral.Unimplemented):
        return await zk.who_am_i()
    return None


async def _made(zk: corral.Client, path: str) -> int:
    return int(await zk.exists(f"{path}/a/b") is not None)


OPERATIONS = {
    "get": Operation(lambda zk, path: zk.get(path), None),
    "exists": Operation(lambda zk, path: zk.exists(path), None),
    "children": Operation(lambda zk, path: zk.children(path, with_stat=True), None),
    "get_acl": Operation(lambda zk, path: zk.get_acl(path), None),
    "sync": Operation(lambda zk, path: zk.sync(path), None),
    "count_children": Operation(lambda zk, path: zk.count_children(path), None),
    "ephemerals": Operation(lambda zk, path: zk.ephemerals(path), None),
    "who_am_i": Operation(lambda zk, path: _who(zk), None),
    "create": Operation(lambda zk, path: zk.create(f"{path}/a", b"x"), _created),
    "create sequential": Operation(lambda zk, path: zk.create(f"{path}/s-", sequential=True), _created),
    "create ephemeral": Operation(
        lambda zk, path: zk.create(f"{path}/e", ephemeral=True, with_stat=True), _created
    ),
    "create container": Operation(lambda zk, path: zk.create(f"{path}/c", container=True), _created),
    "create with parents": Operation(lambda zk, path: zk.create(f"{path}/a/b", make_parents=True), _made),
    "set": Operation(lambda zk, path: zk.set(path, b"new"), _sets),
    "set a version": Operation(lambda zk, path: zk.set(path, b"new", version=0), _sets),
    "set_acl": Operation(lambda zk, path: zk.set_acl(path, corral.acl.OPEN), _acl_sets),
    "delete": Operation(lambda zk, path: zk.delete(path), _deletes),
    "delete recursive": Operation(lambda zk, path: zk.delete(path, recursive=True), _deletes),
    "transaction": Operation(_transact, _transactions),
}


def operating(name: str) -> Callable[[Stage], Scenario]:
    """An operation that returns was applied once; one that is refused was not applied; one whose outcome is
    unknown was applied once or not at all. A read is never lost."""
    call, times, _ = OPERATIONS[name]

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            await stage.other.create(path, b"old")
            async with stage.client() as zk:

                async def operation() -> Any:
                    return await call(zk, path)

                outcome = await run.operation(operation())
                await settle(zk)
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


# Recipes with a line


async def check_turn(
    stage: Stage,
    zk: corral.Client,
    kind: LineKind,
    path: str,
    outcome: Outcome[Any],
    *,
    may_fail: bool = False,
) -> None:
    """The invariants after an acquire has ended in any way: each node of ours is one that is held; the next
    client can acquire at once, and so can we."""
    await settle(zk)
    session = zk.session_id
    acquired = None if outcome.cancelled else outcome.result()
    if acquired is not None:
        require(is_valid(acquired), "acquired, and not valid")
        ours, expected = await kind.nodes(stage.other, path, session), nodes_below(acquired, path)
        require(ours == expected, f"acquired {expected}, and ours in the line are {ours}")
        await release(acquired)
    else:
        require(outcome.cancelled or may_fail, "an acquire has ended with nothing")
    await check_nothing_is_left(stage, zk, kind, path, session)


async def check_nothing_is_left(
    stage: Stage, zk: corral.Client, kind: LineKind, path: str, session: int
) -> None:
    """No node of ours is left while the session lives; the next client can acquire at once, and so can we."""

    async def nothing_of_ours() -> bool:
        return not await kind.nodes(stage.other, path, session)

    try:
        await until(nothing_of_ours, "", patience=stage.patience)
    except AssertionError:
        left = await kind.nodes(stage.other, path, session)
        raise InvariantViolated(f"left in the line: {left}") from None
    require(zk.session_id == session, "the session was lost")
    for who, next_one in (("the next client", kind.opponent(stage.other, path)), ("we", kind.make(zk, path))):
        try:
            async with asyncio.timeout(stage.patience), next_one:
                pass
        except TimeoutError:
            raise InvariantViolated(f"{who} cannot get it") from None


def acquiring(
    scene: str, way: str = "acquire", kind: LineKind = KINDS["lock"]
) -> Callable[[Stage], Scenario]:
    """An acquire if the lines do not exist, if it is free, held to the end by others, handed over by them, or
    handed over after another waiter has left."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            async with stage.client() as zk:
                async with lines(stage, kind, scene, path):
                    outcome = await run.operation(getattr(kind.make(zk, path), way)())
                may_fail = way == "try_acquire" and scene == "held"
                await check_turn(stage, zk, kind, path, outcome, may_fail=may_fail)

        return scenario

    return on


@contextlib.asynccontextmanager
async def lines(stage: Stage, kind: LineKind, scene: str, path: str) -> AsyncIterator[None]:
    """The lines of a recipe; whoever is ahead releases when another one waits, and at the end of the
    block."""
    if scene != "no line":
        await kind.make_lines(stage.other, path)
    if scene in ("no line", "free"):
        yield
        return
    ahead = await kind.fill(stage.other, path)
    waiter: asyncio.Task[Any] | None = None

    async def until_waiting(waiters: int) -> None:
        async for _ in _looks():
            if await kind.is_standing(stage.other, len(ahead), waiters, path):
                return

    async def hand_over() -> None:
        await until_waiting(2 if waiter else 1)
        if waiter is not None:
            waiter.cancel()
            await asyncio.wait([waiter])
            await until_waiting(1)
        await release(ahead[0])

    async with contextlib.AsyncExitStack() as stack:
        for each in ahead:
            stack.push_async_callback(release, each)
        if scene == "behind another":
            waiter = asyncio.create_task(kind.make(stage.other, path).acquire())
            stack.push_async_callback(_cancelled, waiter)
            await until_waiting(1)
        if scene != "held":
            stack.push_async_callback(_cancelled, asyncio.create_task(hand_over()))
        yield


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _looks() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        while True:
            yield
            await asyncio.sleep(0.002)


def losing_a_create(number: int, lost: str, kind: LineKind) -> Callable[[Stage], Scenario]:
    """An acquire, without others in line, where the create in one of its lines is lost with its connection,
    before or after the server applied it."""
    lose = before if lost == "request" else committed

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            await kind.make_lines(stage.other, path)
            async with stage.client() as zk:
                async with stage.proxy.cut_at(lose(match=kind.creates_in(number, path)), reset=True):
                    outcome = await run.operation(kind.make(zk, path).acquire())
                await check_turn(stage, zk, kind, path, outcome)

        return scenario

    return on


def campaigning(scene: str) -> Callable[[Stage], Scenario]:
    """A campaign, from joining to resigning: it returns its function's result, and leaves no candidate."""
    kind = KINDS["election"]

    async def lead(held: corral.Held) -> str:
        require(held.is_valid, "led, and not valid")
        return "a result"

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            async with stage.client() as zk:
                async with lines(stage, kind, scene, path):
                    outcome = await run.operation(zk.election(path).run(lead))
                require(outcome.cancelled or outcome.result() == "a result", f"it ended with {outcome}")
                await settle(zk)
                await check_nothing_is_left(stage, zk, kind, path, zk.session_id)

        return scenario

    return on


def evicting(stage: Stage) -> Scenario:
    """An eviction evicts whoever was first, or nobody, and never another one; if the contender is given, it
    may be repeated."""
    kind = KINDS["lock"]

    async def scenario(run: Run) -> None:
        path = stage.path()
        async with stage.client() as zk:
            held = await stage.other.lock(path).acquire()
            following = asyncio.create_task(stage.other.lock(path).acquire())
            async for _ in _looks():
                if await kind.is_standing(stage.other, 1, 1, path):
                    break
            first, second = await stage.other.lock(path).contenders()
            outcome = await run.operation(zk.lock(path).evict())
            await settle(zk)
            if outcome.cancelled:
                require(await zk.lock(path).evict(first) in (first, None), "another one was evicted")
            else:
                require(outcome.result() == first, f"evicted {outcome}")
            async with asyncio.timeout(stage.patience):
                ours = await following
            require(ours.node.endswith(second.name), "the next in line was evicted")
            for each in (ours, held):
                await each.release()
            await check_nothing_is_left(stage, zk, kind, path, zk.session_id)

    return scenario


def downgrading(stage: Stage) -> Scenario:
    """A writer becomes a reader while another writer waits: that one acquires when the reader releases, and
    not before."""
    kind = KINDS["write lock"]

    async def scenario(run: Run) -> None:
        path = stage.path()
        async with stage.client() as zk:
            session = zk.session_id
            held = await zk.rwlock(path).write().acquire()
            waiting = asyncio.create_task(stage.other.rwlock(path).write().acquire())
            async for _ in _looks():
                if await kind.is_standing(stage.other, 1, 1, path):
                    break
            outcome = await run.operation(held.downgrade())
            if not outcome.cancelled:
                outcome.result()
            await settle(zk)
            async for _ in _looks():  # a cancelled downgrade continues
                if held.is_downgraded:
                    break
            require(held.is_valid, "downgraded, and not valid")
            ours = await kind.nodes(stage.other, path, session)
            require(
                len(ours) == 1 and "__READ__" in min(ours), f"downgraded, and ours in the line are {ours}"
            )
            require(not waiting.done(), "a writer got in while we read")
            await held.release()
            async with asyncio.timeout(stage.patience):
                await (await waiting).release()
            await check_nothing_is_left(stage, zk, kind, path, session)

    return scenario


def observing(phase: str) -> Callable[[Stage], Scenario]:
    """An observer of an election that waits for the next leader gets it; if it is cancelled, it has missed
    nothing. When closed, it leaves no watch."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            may_go = asyncio.Event()

            async def stand(data: bytes) -> str:
                return await stage.other.create(f"{path}/_c_1-latch-", data, ephemeral=True, sequential=True)

            async def change() -> None:
                async for _ in _looks():
                    if any(zk.statistics().watches.values()) or may_go.is_set():
                        break
                if phase == "no parent":
                    await stage.other.create(path)
                await stand(b"new")
                if old:
                    await stage.other.delete(old)

            if phase != "no parent":
                await stage.other.create(path)
            old = await stand(b"old") if phase == "a leader" else ""
            async with stage.client() as zk:
                leaders = zk.election(path).leaders()
                await anext(leaders)
                changing = asyncio.create_task(change())
                outcome = await run.operation(leaders.__anext__())
                may_go.set()
                await changing
                async with asyncio.timeout(stage.patience):
                    leader = await anext(leaders) if outcome.cancelled else outcome.result()
                require(leader is not None and leader.data == b"new", f"told of {leader}")
                leaders.close()
                await turns()  # the task that reads for all observers ends
                await check_no_watch(stage, zk, path)
            await stage.other.delete(path, recursive=True)

        return scenario

    return on


async def check_no_watch(stage: Stage, zk: corral.Client, path: str) -> None:
    """Neither the client nor the server has a watch left."""
    left = len(zk._feeds), sum(zk.statistics().watches.values())
    require(left == (0, 0), f"feeds and watches are left: {left}")
    await settle(zk)
    assert stage.other.server is not None
    address, full = stage.other.server, zk.chroot_path + path

    async def nobody_watches() -> bool:
        return await watching_sessions(address, full) == 0

    await until(nobody_watches, "the server has no watch left", patience=stage.patience)


def giving_up(stage: Stage) -> Scenario:
    """An acquire of a lock that stays held is ended by its caller's timeout, and leaves no node."""

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
            await check_turn(stage, zk, KINDS["lock"], path, outcome, may_fail=True)

    return scenario


def holding(stage: Stage) -> Scenario:
    """``async with`` on a free lock: the body runs while it is held, and nothing is left afterwards."""

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
            await check_turn(stage, zk, KINDS["lock"], path, Outcome(None, None, True))

    return scenario


# A watch of one node


def watching(stage: Stage) -> Scenario:
    """A watch of a node that is created, changed, deleted and created again ends with the last state, and
    never reports an older one after a newer one, nor one twice."""

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
    """Something that is followed, from the state before (`before`) until every write was reported."""

    follow: Callable[[corral.Client, str, Any, asyncio.Event], Awaitable[None]]
    """Pass each event to a mirror until the last state; set the event after the initial ones."""
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
    """Following children or a tree ends with the last state, and reports nothing older after something newer,
    and nothing twice. In any case nothing stays registered, in the client or on the server."""
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
                await check_no_watch(stage, zk, path)

        return scenario

    return on
