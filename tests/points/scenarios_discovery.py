"""Groups and services at every point: joining, updating and leaving, registering what stays, watching, and picking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from scenarios import Stage, check_no_watch, require

import corral
from corral.testing.enumerators import Run, Scenario
from support import settle, until

Make = Callable[[Stage], Scenario]


async def _no_members(stage: Stage, path: str) -> None:
    """Wait until a group is empty, as others see it."""

    async def empty() -> bool:
        return await stage.other.group(path).members() == []

    await until(empty, f"{path} is empty", patience=stage.patience)


def joining(scene: str) -> Make:
    """Joining and leaving a group. Whoever has joined is its member once, with its data; whoever has left, or was
    cancelled, is not, and the name is free for the next. The scene: "no group", "free", or "handed over" by a member
    that leaves meanwhile."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            if scene != "no group":
                await stage.other.create(path)
            async with contextlib.AsyncExitStack() as stack, stage.client() as zk:
                me = zk.group(path).join(b"us", name="name")

                async def join() -> None:
                    async with me:
                        [member] = await stage.other.group(path).members()
                        require(member.data == b"us", f"joined, and the member is {member}")
                        require(member.stat.ephemeral_owner == zk.session_id, "it is not of our session")
                        require(me.is_present, "joined, and not present")

                if scene == "handed over":
                    theirs = stage.other.group(path).join(b"they", name="name")
                    await theirs.__aenter__()

                    async def leave() -> None:
                        async def is_watched() -> bool:
                            return any(zk.statistics().watches.values()) or run.reached

                        await until(is_watched, "the name is waited for")
                        await theirs.__aexit__(None, None, None)

                    leaving = asyncio.create_task(leave())
                    stack.push_async_callback(asyncio.wait, [leaving])
                outcome = await run.operation(join())
                if not outcome.cancelled:
                    outcome.result()
                if scene == "handed over":
                    run.reached = run.reached or outcome.cancelled
                    await leaving
                await settle(zk)
                await _no_members(stage, path)
                require(not me.is_present, "left, and present")
                async with zk.group(path).join(name="name", on_taken="raise"):
                    pass
                await _no_members(stage, path)

        return scenario

    return on


def updating(stage: Stage) -> Scenario:
    """A member's data is set, or, cancelled, may be; it is never anything else, and `data` tells what it is."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        async with stage.client() as zk, zk.group(path).join(b"old", name="name") as me:
            outcome = await run.operation(me.update(b"new"))
            if not outcome.cancelled:
                outcome.result()
                [member] = await stage.other.group(path).members()
                require(member.data == b"new", f"updated, and the member is {member}")

            async def is_told() -> bool:
                [member] = await stage.other.group(path).members()
                require(member.data in (b"old", b"new"), f"the member is {member}")
                return member.data == me.data

            await until(is_told, "the member has the data that we are told", patience=stage.patience)
            async with asyncio.timeout(stage.patience):
                await me.update(b"last")
            [member] = await stage.other.group(path).members()
            require(member.data == b"last", f"updated again, and the member is {member}")

    return scenario


def registering_static(scene: str) -> Make:
    """A static instance is registered or replaced; cancelled, it may be. The scene is what was there: "nothing",
    "static" or "dynamic"."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            theirs = stage.other.services(path)
            before = None
            if scene == "static":
                before = await theirs.register_static("db", id="1", address="old")
            elif scene == "dynamic":
                await stage.other.create(f"{path}/db/1", b"", ephemeral=True, make_parents=True)
            async with stage.client() as zk:
                outcome = await run.operation(
                    zk.services(path).register_static("db", id="1", address="new", payload="ours")
                )
                await settle(zk)
                found = await theirs.instances("db")
                if outcome.cancelled:
                    require(found in ([], [before]) or found[0].address == "new", f"cancelled: {found}")
                else:
                    require(found == [outcome.result()], f"registered, and there is {found}")
                    stat = await stage.other.exists(f"{path}/db/1")
                    require(stat is not None and not stat.ephemeral_owner, f"it is ephemeral: {stat}")
                require(len(found) <= 1, f"registered twice: {found}")

        return scenario

    return on


def unregistering(stage: Stage) -> Scenario:
    """A static instance is removed; cancelled, it may be. What is registered afterwards stays."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        theirs = stage.other.services(path)
        await theirs.register_static("db", id="1", address="old")
        async with stage.client() as zk:
            outcome = await run.operation(zk.services(path).unregister("db", "1"))
            if not outcome.cancelled:
                require(outcome.result() is True, "removed, and told that it was not there")
                require(await theirs.instances("db") == [], "removed, and there")
            await settle(zk)
            again = await theirs.register_static("db", id="1", address="new")
            await settle(zk)
            require(await theirs.instances("db") == [again], "what was registered afterwards is gone")

    return scenario


Follow = Callable[[corral.Client, str, asyncio.Event], Awaitable[None]]


async def _follow_group(zk: corral.Client, path: str, started: asyncio.Event) -> None:
    now: dict[str, corral.Member] = {}
    async with zk.group(path).watch() as events:
        async for event in events:
            for member in event.left:
                require(now.pop(member.name) == member, f"{member} left, and was not reported so")
            for member in event.joined:
                require(now.setdefault(member.name, member) is member, f"{member} joined twice")
            for member in event.changed:
                require(now[member.name].stat.mzxid < member.stat.mzxid, f"{member} is old")
                now[member.name] = member
            require({each.name: each for each in event.members} == now, f"{event} does not follow")
            if sorted(now) == ["1", "last"] and now["1"].data != b"{}":
                return
            started.set()


async def _follow_service(zk: corral.Client, path: str, started: asyncio.Event) -> None:
    base, _, name = path.rpartition("/")
    last = None
    async with zk.services(base or "/").watch(name) as events:
        async for instances in events:
            require(instances != last, f"told twice of {instances}")
            last = instances
            if sorted(each.id for each in instances) == ["1", "last"]:
                return
            started.set()


async def _follow_provider(zk: corral.Client, path: str, started: asyncio.Event) -> None:
    base, _, name = path.rpartition("/")
    provider = zk.services(base or "/").provider(name)
    async with provider:
        require(provider.instances == (), "entered, and not as it was")
        started.set()

        async def is_last() -> bool:
            return sorted(each.id for each in provider.instances) == ["1", "last"]

        await until(is_last, "the provider knows the last state")
        require({provider.pick().id for _ in range(2)} == {"1", "last"}, "it does not pick what is there")


FOLLOWED: dict[str, Follow] = {
    "group.watch": _follow_group,
    "services.watch": _follow_service,
    "services.provider": _follow_provider,
}


def following(name: str) -> Make:
    """Whoever follows members or instances ends up with the last state, and is told nothing twice; whatever has
    happened, nothing stays registered, here or on the server."""
    follow = FOLLOWED[name]

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            started = asyncio.Event()

            async def write() -> None:
                await started.wait()
                await stage.other.create(path)
                await stage.other.create(f"{path}/1", b"{}")
                await stage.other.set(f"{path}/1", b'{"address": "h"}')
                await stage.other.create(f"{path}/2", b'{"address": "h"}')
                await stage.other.delete(f"{path}/2")
                await stage.other.create(f"{path}/last", b'{"address": "h"}')

            async with stage.client() as zk:
                writing = asyncio.create_task(write())
                outcome = await run.operation(_coroutine(follow(zk, path, started)))
                started.set()
                await writing
                if not outcome.cancelled:
                    outcome.result()
                await check_no_watch(stage, zk, path)

        return scenario

    return on


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def reading(stage: Stage) -> Scenario:
    """Members, names and instances are read as they are, whatever connections break."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        theirs = stage.other.services(path)
        expected = [await theirs.register_static("db", id=id, address="h") for id in ("1", "2")]

        async def read() -> None:
            services = zk.services(path)
            require(await services.names() == ["db"], "the names are not what they are")
            require(await services.instances("db") == expected, "the instances are not what they are")
            members = await zk.group(f"{path}/db").members()
            require([each.name for each in members] == ["1", "2"], "the members are not what they are")

        async with stage.client() as zk:
            outcome = await run.operation(read())
            if not outcome.cancelled:
                outcome.result()

    return scenario
