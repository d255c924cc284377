"""The public API as users write it: checked by mypy --strict, never run."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal, assert_type

import corral


async def a_client() -> None:
    async with corral.connect(
        ["zk1:2181", "zk2:2181"],
        session_timeout=10,
        connect_timeout=None,
        auth=[("digest", b"user:password")],
        lease="ping",
        tick_time=2,
    ) as zk:
        assert_type(zk, corral.Client)
        assert_type(zk.state, corral.State)
        assert_type(zk.session_id, int)
        assert_type(zk.session_timeout, float)
        assert_type(zk.server, str | None)
        assert_type(zk.chroot("/team-a"), corral.Client)
        async for state in zk.states():
            assert_type(state, corral.State)
        assert_type(zk.states(), corral.StateStream)
        zk.add_auth("digest", b"user:password")
        statistics = zk.statistics()
        assert_type(statistics, corral.Statistics)
        assert_type((statistics.server, statistics.state), tuple[str | None, corral.State])
        assert_type((statistics.session_id, statistics.session_timeout), tuple[int, float])
        assert_type((statistics.state_age, statistics.lease_left), tuple[float, float | None])
        assert_type((statistics.sessions_opened, statistics.reconnects), tuple[int, int])
        assert_type((statistics.in_flight, statistics.waiting), tuple[int, int])
        assert_type((statistics.held, statistics.watches), tuple[tuple[str, ...], Mapping[str, int]])
        assert_type((statistics.caches, statistics.cached_znodes), tuple[int, int])
        assert_type((statistics.bytes_sent, statistics.bytes_received), tuple[int, int])
        await zk.close()
    assert_type(corral.connect(), corral.Client)
    assert_type(corral.connect("zk1:2281", ssl=True), corral.Client)
    assert_type(corral.connect("zk1:2281", ssl=ssl.create_default_context), corral.Client)
    login, tickets = (
        corral.DigestMD5("user", "secret"),
        corral.Kerberos("zookeeper", host="zk1", keytab="FILE:k"),
    )
    assert_type(corral.connect(sasl=login), corral.Client)
    assert_type(corral.connect(sasl=tickets), corral.Client)
    assert_type((login.user, login.secret, tickets.service), tuple[str, str, str])
    assert_type((tickets.host, tickets.principal), tuple[str | None, str | None])
    assert_type((tickets.ccache, tickets.keytab), tuple[str | None, str | None])
    assert_type(corral.connect(read_only=True), corral.Client)
    assert_type(corral.connect(read_only="wait"), corral.Client)
    assert_type(corral.connect("zk1:2181/app", max_request=1 << 20, max_reply=1 << 24), corral.Client)


async def members(zk: corral.Client) -> None:
    assert_type(zk.ensemble, corral.Ensemble)
    config = await zk.ensemble.config()
    assert_type(config, corral.EnsembleConfig)
    assert_type((config.version, config.hosts()), tuple[int, tuple[str, ...]])
    assert_type(config.members, tuple[corral.EnsembleMember, ...])
    assert_type(config.member(1), corral.EnsembleMember | None)
    member = corral.EnsembleMember.parse("server.4=zk4:2888:3888;2181")
    assert_type((member.id, member.role), tuple[int, Literal["participant", "observer"]])
    assert_type(member.addresses, tuple[corral.QuorumAddress, ...])
    assert_type((member.host, member.quorum_port, member.election_port), tuple[str, int, int])
    assert_type((member.client_address, member.secure_client_address), tuple[str | None, str | None])
    assert_type(member.hosts(secure=True), tuple[str, ...])
    address = corral.QuorumAddress("zk4", 2888, 3888)
    assert_type((address.host, address.quorum_port, address.election_port), tuple[str, int, int])
    changed = await zk.ensemble.reconfigure(joining=[member], leaving=[1], from_version=config.version)
    assert_type(changed, corral.EnsembleConfig)
    await zk.ensemble.reconfigure(members=["server.4=zk4:2888:3888;2181"])
    assert_type(zk.ensemble.watch(), corral.EnsembleWatch)
    async for config in zk.ensemble.watch():
        assert_type(config, corral.EnsembleConfig)
    assert_type(corral.connect(follow_members=True), corral.Client)
    refusals = (corral.ReconfigDisabled, corral.NewConfigNoQuorum, corral.ReconfigInProgress)
    assert all(issubclass(refusal, corral.ServerError) for refusal in refusals)


async def nodes(zk: corral.Client) -> None:
    path = await zk.create("/jobs/job-", b"payload", sequential=True, ephemeral=True, make_parents=True)
    assert_type(path, str)
    assert_type(await zk.create("/a", with_stat=True), tuple[str, corral.Stat])
    data, stat = await zk.get("/jobs")
    assert_type(data, bytes)
    assert_type(stat, corral.Stat)
    assert_type(stat.mtime, float)
    assert_type(await zk.set("/jobs", b"v2", version=stat.version), corral.Stat)
    assert_type(await zk.exists("/jobs"), corral.Stat | None)
    assert_type(await zk.children("/jobs"), list[str])
    assert_type(await zk.children("/jobs", with_stat=True), tuple[list[str], corral.Stat])
    assert_type(await zk.get_acl("/jobs"), tuple[list[corral.Acl], corral.Stat])
    acl: Sequence[corral.Acl] = corral.acl.digest("user", "password") + corral.acl.world(corral.Perm.READ)
    await zk.set_acl("/jobs", acl, version=0)
    await zk.sync()
    await zk.delete("/jobs", recursive=True)
    await zk.ensure_path("/jobs/done", acl=corral.acl.WORLD_READ)
    assert_type(await zk.who_am_i(), list[corral.Identity])
    identity = corral.Identity("ip", "127.0.0.1")
    assert_type((identity.scheme, identity.id), tuple[str, str])
    assert_type(await zk.ephemerals() + await zk.ephemerals("/jobs"), list[str])
    assert_type(await zk.count_children("/jobs"), int)
    assert_type(await zk.count_children("/jobs", recursive=False), int)
    async with zk.transaction() as tx:
        tx.check("/config", version=3)
        tx.set("/config", b"v4")
        tx.create("/audit/entry-", b"...", sequential=True)
    assert_type(tx, corral.Transaction)
    assert_type(tx.results, list[str | corral.Stat | None])
    assert_type(await tx.commit(), list[str | corral.Stat | None])
    assert_type(await zk.create("/c", container=True, acl=corral.acl.WORLD_READ), str)
    assert_type(await zk.create("/t", ttl=2.5, acl=corral.acl.creator()), str)


async def whether_with_stat(zk: corral.Client, flag: bool) -> None:
    """The argument's value is not known before the call."""
    assert_type(await zk.children("/a", with_stat=flag), list[str] | tuple[list[str], corral.Stat])
    assert_type(await zk.create("/a", with_stat=flag), str | tuple[str, corral.Stat])


async def locks(zk: corral.Client) -> None:
    lock = zk.lock("/locks/nightly", data=b"host-7")
    async with lock as held:
        assert_type(held, corral.Held)
        assert_type(held.fencing_token, int)
        assert_type(held.is_valid, bool)
        async with held.transaction() as tx:
            tx.set("/a", b"x")
    async with asyncio.timeout(5):
        assert_type(await lock.acquire(), corral.Held)
    assert_type(await lock.try_acquire(), corral.Held | None)
    await lock.release()
    assert_type(await held.wait_lost(), corral.LockLost | None)
    for contender in await lock.contenders():
        assert_type(contender.data, bytes | None)


async def turns(zk: corral.Client) -> None:
    rw = zk.rwlock("/rw", data=b"host-7", layout="kazoo")
    async with rw.read() as held:
        assert_type(held, corral.Held)
    async with rw.write() as written:
        assert_type(written, corral.HeldWrite)
        assert_type(written.is_downgraded, bool)
        await written.downgrade()
    assert_type(await rw.write().try_acquire(), corral.HeldWrite | None)
    semaphore = zk.semaphore("/s", 5)
    async with semaphore as lease:
        assert_type(lease, corral.Held)
    assert_type(await semaphore.holders(), list[corral.Contender])
    election = zk.election("/e", data=b"host-7")
    async for leader in election.leaders():
        assert_type(leader, corral.Contender | None)

    async def lead(held: corral.Held) -> int:
        return held.fencing_token

    assert_type(await election.run(lead), int)
    async with zk.multi_lock(["/a", "/b"]) as several:
        assert_type(several, tuple[corral.Held, ...])
    await zk.multi_lock(["/a", "/b"]).release()
    assert_type(await zk.lock("/l").evict(), corral.Contender | None)
    async with zk.registration("/nodes/host-7", b"up", on_taken="raise") as me:
        assert_type(me, corral.Registration)
        assert_type(me.data, bytes)
        assert_type(me.is_present, bool)
        await me.update(b"draining")
        await me.wait_present()
    group = zk.group("/workers", layout="kazoo_shallow")
    assert_type(group, corral.Group)
    assert_type(group.path, str)
    async with group.join(b"host-7:8080", name="host-7", on_taken="raise") as member:
        assert_type(member, corral.Membership)
        assert_type(member.name, str)
    async with group.watch() as membership:
        assert_type(membership, corral.GroupWatch)
        async for now in membership:
            assert_type(now, corral.Members)
            assert_type(now.members, tuple[corral.Member, ...])
            assert_type((now.joined, now.left), tuple[tuple[corral.Member, ...], tuple[corral.Member, ...]])
            assert_type(now.changed[0].stat, corral.Stat)
    assert_type(await group.members(), list[corral.Member])
    zk.group("/g", layout="redis")  # type: ignore[arg-type]
    services = zk.services("/services")
    assert_type(services, corral.Services)
    async with services.register("web", address="10.0.0.7", port=8080, payload={"version": "1.2"}) as mine:
        assert_type(mine, corral.ServiceRegistration)
        assert_type(mine.instance, corral.ServiceInstance)
        await mine.update(payload="text", enabled=False)
    static = await services.register_static("db", id="main", address="db1", uri_spec="{scheme}://{address}")
    assert_type(static.service_type, corral.ServiceType)
    kinds = [corral.ServiceType.DYNAMIC, corral.ServiceType.DYNAMIC_SEQUENTIAL]
    kinds += [corral.ServiceType.STATIC, corral.ServiceType.PERMANENT]
    assert_type((static.id, static.ssl_port, static.uri_spec), tuple[str, int | None, str | None])
    assert_type((static.registration_time, static.enabled), tuple[float, bool])
    assert_type(static.payload, Any)
    assert_type(await services.unregister("db", "main"), bool)
    assert_type(await services.names(), list[str])
    assert_type(await services.instances("web"), list[corral.ServiceInstance])
    async with services.watch("web") as found:
        assert_type(found, corral.ServiceWatch)
        assert_type(await anext(found), tuple[corral.ServiceInstance, ...])
    async with services.provider("web", strategy=corral.RoundRobin()) as web:
        assert_type(web, corral.ServiceProvider)
        try:
            picked = web.pick()
        except corral.NoInstance as none:
            assert_type((none.service, none.registered), tuple[str, int])
        else:
            assert_type((picked.name, picked.address, picked.port), tuple[str, str, int | None])
            web.note_error(picked)
            web.note_success(picked)
        assert_type(web.instances, tuple[corral.ServiceInstance, ...])
        assert_type((web.is_current, web.name), tuple[bool, str])
        web.close()
    for strategy in (corral.Random(), corral.Sticky(), lambda found: found[-1]):
        services.provider("web", strategy)
    queue = zk.queue("/jobs", max_attempts=5)
    assert_type(queue, corral.Queue)
    assert_type(queue.max_attempts, int | None)
    await queue.put(b"x", priority=10)
    await queue.put_many([b"x", b"y"])
    async with queue.take() as job:
        assert_type(job, corral.Job)
        assert_type(job.data, bytes)
        assert_type(job.attempt, int)
        assert_type(job.priority, int)
        assert_type(job.transaction(), corral.Transaction)
        await job.done()
    assert_type(await queue.take(), corral.Job)
    assert_type(await queue.try_take(), corral.Job | None)
    async for job in queue:
        async with job as entered:
            assert_type(entered, corral.Job)
    assert_type(await queue.size(), int)
    assert_type(queue.take(), corral.Take)
    assert_type(queue.watch_size(), corral.SizeWatch)
    async for size in queue.watch_size():
        assert_type(size, int)
    for failed in await queue.failed():
        assert_type(failed, corral.FailedItem)
        assert_type(failed.attempts, int)
        await queue.requeue(failed)
        await queue.discard(failed)
    await queue.put("text")  # type: ignore[arg-type]
    async with zk.partition("/shards", range(64), data=b"host-7", settle=2.0) as partition:
        assert_type(partition, corral.Partition[int])
        async for share in partition:
            assert_type(share, frozenset[int])
        assert_type(partition.held(3), corral.Held)
        assert_type(partition.mine, frozenset[int])
        assert_type(partition.items, tuple[int, ...])
        assert_type(partition.members, frozenset[str])
        assert_type(partition.id, str)

        async def consume(shard: int, held: corral.Held) -> None: ...

        await partition.run(consume)
    zk.partition("/shards", ["a", "b"], assign=corral.rendezvous)
    zk.partition("/shards", 64)  # type: ignore[arg-type]
    zk.registration("/n", on_taken="never")  # type: ignore[arg-type]
    values: corral.ValueWatch[str] = zk.value("/v", codec=corral.TEXT).watch()
    values.close()
    numbers: corral.CounterWatch = zk.counter("/n").watch()
    numbers.close()
    codec: corral.Codec[bytes] = corral.BYTES
    assert_type(codec.decode(codec.encode(b"")), bytes)
    plain = zk.value("/v", default=b"")
    assert_type(plain.path, str)
    assert_type(plain, corral.Value[bytes])
    assert_type(await plain.get(), corral.Versioned[bytes])
    text = zk.value("/v", codec=corral.TEXT, default="none")
    assert_type(text, corral.Value[str])
    assert_type((await text.update(str.upper)).value, str)
    assert_type((await text.set("a", version=3)).version, int)
    async for current in text.watch():
        assert_type(current, corral.Versioned[str])
        assert_type(current.stat, corral.Stat | None)
        assert_type(current.exists, bool)
    try:
        await text.get()
    except corral.InvalidValue as invalid:
        assert_type(invalid.version, int)
        assert_type(invalid.path, str)
    assert_type(zk.counter("/n"), corral.Counter)
    await zk.counter("/n").set(3)
    assert_type(zk.value("/v", codec=corral.JSON, default={"rps": 10}), corral.Value[Any])
    zk.value("/v", codec=corral.TEXT, default=b"none")  # type: ignore[misc]
    zk.value("/v", default="none")  # type: ignore[call-overload]
    assert_type(await zk.counter("/n", layout="curator-int").add(-1), int)
    async for total in zk.counter("/n").watch():
        assert_type(total, int)
    zk.counter("/n", layout="redis")  # type: ignore[arg-type]
    zk.semaphore("/s")  # type: ignore[call-arg]
    zk.lock("/l", layout="redis")  # type: ignore[arg-type]


async def gates(zk: corral.Client) -> None:
    barrier: corral.Barrier = zk.barrier("/gate", data=b"maintenance")
    await barrier.close()
    await barrier.open()
    await barrier.wait()
    assert_type(await barrier.is_closed(), bool)
    assert_type(barrier.path, str)
    async with zk.double_barrier("/step", 5) as step:
        assert_type(step, corral.DoubleBarrier)
        assert_type((step.n, step.path), tuple[int, str])
    await step.enter()
    await step.leave()

    async def job(held: corral.Held) -> bytes:
        return str(held.fencing_token).encode()

    async def without_result(held: corral.Held) -> None:
        await held.release()

    once: corral.Once = zk.once("/jobs/migrate-7", ttl=86_400)
    assert_type(await once.run(job), bytes)
    assert_type(await once.try_run(without_result), bytes | None)
    assert_type(await once.record(), corral.Znode | None)
    await once.reset()
    assert_type((once.ttl, once.path), tuple[float | None, str])
    await once.run(lambda held: 7)  # type: ignore[arg-type, return-value]
    zk.double_barrier("/step")  # type: ignore[call-arg]


async def watches(zk: corral.Client) -> None:
    async for event in zk.watch("/config"):
        assert_type(event, corral.Event)
        assert_type(event.data, bytes | None)
        assert_type(event.kind, corral.EventKind)
    async with zk.watch("/config") as events:
        first = await anext(events)
        assert_type(first.stat, corral.Stat | None)
    async for family in zk.watch_children("/workers"):
        assert_type(family, corral.ChildrenEvent)
        assert_type(family.added, frozenset[str])
    async with zk.watch_tree("/config", depth=2, only=lambda path: "secret" not in path) as tree:
        assert_type(tree, corral.TreeWatch)
        assert_type(await anext(tree), corral.Event)
    async for raw in zk.watch_raw("/config", recursive=True):
        assert_type(raw.zxid, int | None)
        assert_type(raw.kind, corral.RawKind)
    async with zk.cache("/config") as cache:
        assert_type(cache, corral.Cache)
        assert_type(cache["/config"], corral.Znode)
        assert_type(cache.get("/config"), corral.Znode | None)
        assert_type(cache.children("/config"), list[str])
        async for event in cache.changes():
            assert_type(event, corral.Event)
    assert_type(await zk.wait_until("/a", lambda event: event.data == b"x"), corral.Event)
    assert_type(await zk.wait_present("/a"), corral.Event)
    await zk.wait_absent("/a")
    assert_type(await zk.wait_children("/a", 3), corral.ChildrenEvent)
    await zk.wait_children("/a", lambda family: "leader" in family.children)
    zk.cache("/a", depth="1")  # type: ignore[arg-type]


async def stacked(stack: AsyncExitStack) -> None:
    """The types allow entering and iterating everything that supports it."""
    zk = await stack.enter_async_context(corral.connect())
    assert_type(zk, corral.Client)
    assert_type(await stack.enter_async_context(zk.lock("/l")), corral.Held)
    assert_type(await stack.enter_async_context(zk.watch("/n")), corral.NodeWatch)
    assert_type(await stack.enter_async_context(zk.transaction()), corral.Transaction)
    manager: AbstractAsyncContextManager[corral.Client] = corral.connect()
    events: AsyncIterator[corral.Event] = zk.watch("/n")
    states: AsyncIterable[corral.State] = zk.states()
    print(manager, events, states)


async def wrong(zk: corral.Client) -> None:
    """Calls that the types reject; mypy reports an ignore comment that is not needed."""
    await zk.create("/a", "text")  # type: ignore[call-overload]
    await zk.set("/a", None)  # type: ignore[arg-type]
    await zk.set("/a", b"", version="1")  # type: ignore[arg-type]
    await zk.get(b"/a")  # type: ignore[arg-type]
    await zk.set_acl("/a", "world")  # type: ignore[arg-type]
    await zk.children("/a", True)  # type: ignore[call-overload]
    zk.lock("/l", data="text")  # type: ignore[arg-type]
    corral.connect(lease="hope")  # type: ignore[arg-type]
    corral.connect(read_only="raise")  # type: ignore[arg-type]
    corral.connect(auth=("digest", b"user:password"))  # type: ignore[arg-type]
    corral.connect(ssl="yes")  # type: ignore[arg-type]
    corral.connect(2181)  # type: ignore[arg-type]
    corral.connect(sasl=("user", "secret"))  # type: ignore[arg-type]
    zk.state = corral.State.CLOSED  # type: ignore[misc]
    (await zk.get("/a"))[1].version = 7  # type: ignore[misc]
    async for event in zk.watch("/a"):
        event.data.decode()  # type: ignore[union-attr]


def caught(error: Exception) -> str:
    match error:
        case corral.TransactionFailed():
            assert_type(error.index, int)
            assert_type(error.cause, corral.ServerError)
            return f"{error.index}: {error.cause}"
        case corral.BadVersion():
            assert_type(error.expected, int | None)
            assert_type(error.found, int | None)
            return f"{error.found}, not {error.expected}"
        case corral.ServerError():
            assert_type(error.code, int)
            assert_type(error.path, str | None)
            return f"{error.operation} {error.path} {error.code}"
        case corral.FrameTooLarge():
            return f"{error.size} > {error.limit}"
        case corral.ConnectionLoss():
            assert_type(error.losses, int)
            assert_type(error.is_hopeless, bool)
            return f"{error.losses}"
        case corral.InternalError() | corral.SessionError() | corral.UsageError():
            return str(error)
        case _:
            raise error


def what_is_made(zk: corral.Client) -> None:
    """The classes that the client's methods return, which users write in their own annotations."""
    lock: corral.Lock = zk.lock("/l")
    rw: corral.RWLock = zk.rwlock("/rw")
    sides: tuple[corral.ReadLock, corral.WriteLock] = (rw.read(), rw.write())
    semaphore: corral.Semaphore = zk.semaphore("/s", 5)
    election: corral.Election = zk.election("/e")
    several: corral.MultiLock = zk.multi_lock(["/a", "/b"])
    leaders: corral.LeaderWatch = election.leaders()
    node: corral.NodeWatch = zk.watch("/n")
    children: corral.ChildrenWatch = zk.watch_children("/n")
    tree: corral.TreeWatch = zk.watch_tree("/n")
    raw: corral.RawWatch = zk.watch_raw("/n")
    assert_type(zk.chroot_path, str)
    assert_type(lock.path, str)
    assert_type(lock.name, str)
    assert_type(rw.path, str)
    assert_type(semaphore.limit, int)
    assert_type(several.paths, tuple[str, ...])
    print(sides, leaders, node, children, tree, raw)


async def who_is_there(zk: corral.Client, held: corral.Held) -> None:
    assert_type(held.name, str)
    assert_type(held.node, str)
    assert_type(held.session_id, int)
    assert_type(await zk.lock("/l").locked(), bool)
    assert_type(await zk.semaphore("/s", 5).waiters(), list[corral.Contender])
    assert_type(await zk.election("/e").candidates(), list[corral.Contender])
    leader = await zk.election("/e").leader()
    assert_type(leader, corral.Contender | None)
    if leader is not None:
        assert_type(leader.name, str)
        assert_type(leader.sequence, int)
        assert_type(leader.stat, corral.Stat)


def a_cache(cache: corral.Cache) -> None:
    assert_type(cache.is_current, bool)
    print(list(cache), list(cache.keys()), list(cache.values()))
    for path, node in cache.items():
        assert_type(path, str)
        assert_type(node.data, bytes)
        assert_type(node.stat, corral.Stat)
    cache.close()


def records(stat: corral.Stat, acl: corral.Acl, family: corral.ChildrenEvent, raw: corral.RawEvent) -> None:
    assert_type((stat.czxid, stat.mzxid, stat.pzxid), tuple[int, int, int])
    assert_type((stat.version, stat.cversion, stat.aversion), tuple[int, int, int])
    assert_type((stat.ephemeral_owner, stat.data_length, stat.num_children), tuple[int, int, int])
    assert_type(stat.ctime, float)
    assert_type((acl.perms, acl.scheme, acl.id), tuple[corral.Perm, str, str])
    assert_type(family.removed, frozenset[str])
    assert_type(family.exists, bool)
    assert_type(raw.path, str)
    assert_type(corral.acl.OPEN, tuple[corral.Acl, ...])
    assert_type((corral.OPEN_ACL, corral.READ_ACL), tuple[tuple[corral.Acl, ...], tuple[corral.Acl, ...]])
    assert_type(corral.Acl.digest("user", "password"), corral.Acl)
    assert_type([corral.Acl.world(corral.Perm.READ), corral.Acl.creator()], list[corral.Acl])
    assert_type(corral.acl.CREATOR_ALL + corral.acl.WORLD_READ, tuple[corral.Acl, ...])
    assert_type(corral.acl.creator(corral.Perm.READ | corral.Perm.WRITE), tuple[corral.Acl, ...])
    assert_type(corral.acl.sasl("ann") + corral.acl.x509("CN=ann"), tuple[corral.Acl, ...])
    assert_type(corral.acl.ip("10.0.0.0/8", corral.Perm.READ), tuple[corral.Acl, ...])
    corral.connect(default_acl=corral.acl.CREATOR_ALL)
    corral.connect(default_acl=[corral.Acl(corral.Perm.ALL, "super", "")])
    all_of_them = (
        corral.Perm.READ | corral.Perm.WRITE | corral.Perm.CREATE | corral.Perm.DELETE | corral.Perm.ADMIN
    )
    assert_type(all_of_them, corral.Perm)
    assert_type(corral.Perm.ALL & all_of_them, corral.Perm)


def exhausted(state: corral.State, kind: corral.EventKind, raw: corral.RawKind) -> str:
    """mypy reports a missing return here when an enumeration gets a member that these do not handle."""
    match state:
        case (
            corral.State.CONNECTED
            | corral.State.READ_ONLY
            | corral.State.SUSPENDED
            | corral.State.LAPSED
            | corral.State.EXPIRED
        ):
            pass
        case corral.State.AUTH_FAILED | corral.State.CLOSED:
            return "final"
    match raw:
        case corral.RawKind.CREATED | corral.RawKind.DELETED | corral.RawKind.MISSED:
            pass
        case corral.RawKind.DATA_CHANGED | corral.RawKind.CHILDREN_CHANGED:
            return "changed"
    match kind:
        case corral.EventKind.PRESENT | corral.EventKind.CREATED | corral.EventKind.CHANGED:
            return "there"
        case corral.EventKind.ABSENT | corral.EventKind.DELETED:
            return "gone"
        case corral.EventKind.COMPLETE:
            return "complete"


def whose_fault(error: corral.CorralError) -> str:
    match error:
        case corral.NoNode() | corral.NodeExists() | corral.NotEmpty() | corral.NoChildrenForEphemerals():
            return "another client's, or the caller's"
        case corral.NoAuth() | corral.InvalidAcl() | corral.BadArguments() | corral.Unimplemented():
            assert_type(error.code, int)
            return "the configuration's"
        case corral.QuotaExceeded() | corral.Throttled() | corral.EphemeralOnLocalSession():
            assert_type(error.path, str | None)
            return "the operator's"
        case (
            corral.NotReadOnly()
            | corral.NoWatcher()
            | corral.SessionMoved()
            | corral.OtherServerError()
            | corral.ReplyError()
        ):
            assert_type(error.operation, str)
            return "a server's"
        case corral.OperationError():
            assert_type(error.path, str | None)
            return "the network's"
        case corral.SessionExpired() | corral.LockLost() | corral.AuthFailed() | corral.ClientClosed():
            return "over"
        case corral.EnsembleBehind() | corral.ConnectTimeout():
            return "the operator's"
        case corral.LimitMismatch():
            assert_type(error.ours, int)
            assert_type(error.theirs, int | None)
            return "configured apart"
        case corral.AlreadyHeld() | corral.UsageStateError():
            assert_type(corral.ConnectionLoss.MOST_LOSSES, int)
            return "called too early, or too late"
        case corral.UsageValueError() | corral.UsageTypeError():
            return "the caller's"
        case _:
            raise error
