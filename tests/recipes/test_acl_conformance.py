"""Everything that a client creates has its default access control list, or that of the `acl=` that was
passed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import operator
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from corral import Acl, Perm, acl
from corral.testing import EmbeddedServer, FaultProxy, LocalServer, Message, MessageKind
from corral.wire import messages
from support import started, turns, within

CREDENTIALS = [("digest", b"ann:secret")]
DEFAULT = acl.CREATOR_ALL + acl.world(Perm.READ | Perm.CREATE)
OWN = acl.digest("ann", "secret") + acl.ip("127.0.0.0/8", Perm.READ) + acl.WORLD_READ
STORED = {DEFAULT: {*acl.digest("ann", "secret"), *acl.world(Perm.READ | Perm.CREATE)}, OWN: set(OWN)}
"""What a server stores for each: creators are replaced by who they are."""

CREATES = [messages.CREATE, messages.CREATE2, messages.CREATE_CONTAINER, messages.CREATE_TTL]

Drive = Callable[..., Awaitable[object]]


async def create(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    """Every kind of znode, and missing parents."""
    await zk.create(f"{path}/a", make_parents=True, **options)
    await zk.create(f"{path}/e-", ephemeral=True, sequential=True, **options)
    await zk.create(f"{path}/c", container=True, with_stat=True, **options)
    await zk.create(f"{path}/t", ttl=60, **options)
    await look()


async def ensure_path(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    await zk.ensure_path(f"{path}/a", **options)
    await look()


async def transaction(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    """A client's own, and one that depends on a lock."""
    await zk.ensure_path(path.rpartition("/")[0], **options)
    tx = zk.transaction()
    tx.create(path, **options)
    await tx.commit()
    async with zk.lock(f"{path}/lock", **options) as held:
        async with held.transaction() as guarded:
            guarded.create(f"{path}/guarded", **options)
        await look()


async def line(lock: Any, look: Drive) -> None:
    async with lock:
        await look()


async def rwlock(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    """Both sides, and a downgrade, which creates another znode."""
    lock = zk.rwlock(path, **options)
    async with lock.read():
        await look()
    async with lock.write() as held:
        await held.downgrade()
        await look()


async def group(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    members = zk.group(path, **options)
    async with members.join(b"a", name="me"), members.join(b"b"):
        await look()


async def services(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    """Instances that live with the client, and those that stay."""
    found = zk.services(path, **options)
    await found.register_static("web", id="1", address="10.0.0.1", port=80)
    async with found.register("api", address="10.0.0.2", port=81):
        await look()


async def value(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    """The znode, and the mark beside it."""
    kept = zk.value(path, default=b"", **options)
    await kept.set(b"1")
    await kept.update(lambda data: data + b"2")
    await look()


async def counter(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    await zk.counter(path, **options).add(1)
    await zk.counter(path, **options).add(1)
    await look()


async def queue(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    """Items, what has taken them, what was put aside, and the line of those who wait."""
    items = zk.queue(path, max_attempts=1, **options)
    await items.put_many([b"a", b"b"])
    await items.put(b"c", priority=1)
    async with items.take() as job:
        await look()
        await job.done()
    for _ in range(2):
        job = await items.take()
        await job.release()
    await look()
    waiter = asyncio.ensure_future(items.take())
    await turns()
    await look()
    await items.put(b"d")
    await (await within(waiter)).done()
    await items.put(b"for the next one")


async def partition(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    async with zk.partition(path, ["a", "b"], settle=0.01, **options) as share:
        async for mine in share:
            if len(mine) == 2:
                break
        await look()


async def barrier(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    gate = zk.barrier(path, **options)
    await gate.close()
    await look()
    await gate.open()


async def double_barrier(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    first, second = (zk.double_barrier(path, 2, **options) for _ in range(2))
    await asyncio.gather(first.enter(), second.enter())
    await look()
    await asyncio.gather(first.leave(), second.leave())


async def once(zk: corral.Client, path: str, look: Drive, **options: Any) -> None:
    async def job(held: corral.Held) -> bytes:
        await look()
        return b"done"

    await zk.once(path, **options).run(job)
    await look()


DRIVES: dict[str, Drive] = {
    "create": create,
    "ensure_path": ensure_path,
    "transaction": transaction,
    "lock": lambda zk, path, look, **options: line(zk.lock(path, **options), look),
    "rwlock": rwlock,
    "semaphore": lambda zk, path, look, **options: line(zk.semaphore(path, 2, **options), look),
    "election": lambda zk, path, look, **options: line(zk.election(path, **options), look),
    "multi_lock": lambda zk, path, look, **options: line(
        zk.multi_lock([f"{path}/a", f"{path}/b"], **options), look
    ),
    "registration": lambda zk, path, look, **options: line(zk.registration(path, **options), look),
    "group": group,
    "services": services,
    "value": value,
    "counter": counter,
    "queue": queue,
    "partition": partition,
    "barrier": barrier,
    "double_barrier": double_barrier,
    "once": once,
}
"""What each method of a client that creates znodes does with them: `look` is called where they are there."""


NOT_RECIPES = {"create", "ensure_path", "transaction"}


def lists_in(message: Message) -> Iterator[tuple[Acl, ...]]:
    """The access control list of each znode that a request creates."""
    if message.kind is not MessageKind.REQUEST or message.operation == "connect":
        return
    op, body = messages.OPERATIONS[message.opcode], message.body
    start = messages.REQUEST_HEADER.size - 4
    if op is messages.MULTI:
        made = messages.decode_multi(body, start, len(body))
    else:
        made = [(op, op.request.decode(body, start, len(body)))] if op in CREATES else []
    for each, fields in made:
        if each in CREATES:
            yield tuple(fields[2])


def test_every_recipe_is_driven() -> None:
    """The table has every method of a client that makes a recipe, and every one that takes a list."""
    makers = set()
    for name, method in inspect.getmembers(corral.Client, inspect.isfunction):
        made = inspect.get_annotations(method).get("return", "").partition("[")[0]
        recipe = getattr(getattr(corral, made, None), "__module__", "").startswith("corral.recipes")
        takes = "acl" in inspect.signature(method).parameters
        assert takes or not recipe, f"{name} makes a recipe, and takes no acl="
        if not name.startswith("_") and (takes or recipe):
            makers.add(name)
    assert makers - {"set_acl"} == set(DRIVES) - {"transaction"}


# What others need


DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
DOCUMENTED = {
    name: {Perm[each] for each in needed.split(", ")}
    for names, needed in re.findall(r"^\| (`zk\..*?) \| ([A-Z, ]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    for name in re.findall(r"`zk\.(\w+)", names)
}
"""The permissions that others need, by the table in docs/security.md."""


def test_the_document_has_every_recipe() -> None:
    """The table of permissions in docs/security.md has every recipe."""
    assert set(DOCUMENTED) == set(DRIVES) - NOT_RECIPES


async def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Iterator[LocalServer | None]:
    """A real server that keeps empty containers, if the run is on a real one."""
    try:
        request.getfixturevalue("real_servers")
    except pytest.skip.Exception:
        yield None
        return
    server = LocalServer(container_check_interval=3600)
    with started(server):
        yield server


@pytest.fixture
async def keeping(real: LocalServer | None) -> AsyncIterator[str]:
    """The address of a server that keeps empty containers: between two users of a recipe its path must not
    vanish."""
    if real is not None:
        yield real.address
        return
    async with EmbeddedServer(container_check_interval=3600) as server:
        yield server.address


@pytest.mark.parametrize(
    ("name", "missing"),
    [(name, each) for name, needed in DOCUMENTED.items() for each in (None, *sorted(needed))],
)
async def test_what_others_need(keeping: str, name: str, missing: Perm | None) -> None:
    """S6: somebody else can use what a client has created if its list grants everyone the documented permissions.
    Without one of them the use is refused, and the error is NoAuth."""
    needed = DOCUMENTED[name]
    granted = functools.reduce(operator.or_, needed - {missing}, Perm(0))
    hers = acl.digest("ann", "secret") + acl.world(granted)
    path = f"/{name}-{granted}/here"
    async with (
        corral.connect(keeping, auth=CREDENTIALS, default_acl=hers) as ann,
        corral.connect(keeping) as bob,
    ):
        await DRIVES[name](ann, path, nothing)
        use = DRIVES[name](bob, path, nothing)
        if missing in needed:
            with pytest.raises(corral.NoAuth):
                await within(use)
        else:
            await within(use)


async def delete(zk: corral.Client, path: str) -> None:
    """Whoever cleans up behind a test may not delete what has a list."""
    with contextlib.suppress(corral.NoNode):
        await zk.delete(path, recursive=True)


# What is created


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in DRIVES for how in ("default", "own")]
    + [(name, "chroot") for name in ("create", "transaction", "lock", "services")],
)
async def test_what_is_created_has_it(
    connect: Callable[..., corral.Client], proxy: FaultProxy, name: str, how: str
) -> None:
    """S6: each znode that a client creates has the client's default list, missing parents, containers and znodes
    that exist for a moment included, also below a chroot; with `acl=` each of them has that one."""
    wanted = OWN if how == "own" else DEFAULT
    sent: list[tuple[Acl, ...]] = []
    seen = set[str]()

    def note(message: Message) -> bool:
        sent.extend(lists_in(message))
        return False

    async with (
        connect(proxy.address, auth=CREDENTIALS, default_acl=DEFAULT) as zk,
        proxy.record(note),
    ):
        below = zk.chroot("/made/here") if how == "chroot" else zk

        async def look(path: str = "/made") -> None:
            entries, _ = await zk.get_acl(path)
            assert set(entries) == STORED[wanted], path
            seen.add(path)
            for child in await zk.children(path):
                with contextlib.suppress(corral.NoNode):  # an empty container may vanish at any time
                    await look(f"{path}/{child}")

        if how == "chroot":
            await below.ensure_path("/")
        await DRIVES[name](below, "/made/it", look, **({"acl": OWN} if how == "own" else {}))
        await delete(zk, "/made")
    assert seen
    assert sent
    assert set(sent) == {wanted}
