"""kazoo, which blocks and uses threads, on an embedded server and on a real one."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from corral.session.ensemble_probe import probe_zxid

kazoo_client = pytest.importorskip("kazoo.client")
exceptions = pytest.importorskip("kazoo.exceptions")

PATIENCE = 30.0


class Seen:
    """The arguments of a callback, in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()

    def __call__(self, what: Any, *more: Any) -> None:
        self._queue.put(what)

    def next(self) -> Any:
        """Wait for the next one."""
        return self._queue.get(timeout=PATIENCE)

    def until(self, wanted: Any) -> None:
        """Wait for a given one; others may come before."""
        while self.next() != wanted:
            pass


@pytest.fixture
def connect(server: str) -> Iterator[Callable[..., Any]]:
    """Makes connected clients, and closes them in the end."""
    clients = []

    def make(**options: Any) -> Any:
        client = kazoo_client.KazooClient(server, **options)
        clients.append(client)
        client.start(timeout=PATIENCE)
        return client

    yield make
    for client in clients:
        client.stop()
        client.close()


@pytest.fixture
def kazoo(connect: Callable[..., Any], place: str) -> Iterator[Any]:
    """A client with its own node."""
    client = connect()
    client.create(place)
    yield client
    client.delete(place, recursive=True)


def test_nodes(kazoo: Any, place: str) -> None:
    """Nodes are created in each way, read, set, listed and deleted; a refusal raises kazoo's error for it."""
    assert kazoo.create(f"{place}/a", b"one") == f"{place}/a"
    assert kazoo.create(f"{place}/s-", sequence=True) == f"{place}/s-0000000001"
    path, stat = kazoo.create(f"{place}/e", ephemeral=True, include_data=True)
    assert (path, stat.ephemeralOwner) == (f"{place}/e", kazoo.client_id[0])
    assert kazoo.set(f"{place}/a", b"two", version=0).version == 1
    data, stat = kazoo.get(f"{place}/a")
    assert (data, stat.version, stat.data_length) == (b"two", 1, 3)
    children, stat = kazoo.get_children(place, include_data=True)
    assert (sorted(children), stat.children_count) == (["a", "e", "s-0000000001"], 3)
    acls, _ = kazoo.get_acls(place)
    assert acls[0].id.scheme == "world"
    assert kazoo.exists(f"{place}/none") is None
    with pytest.raises(exceptions.NoNodeError):
        kazoo.get(f"{place}/none")
    with pytest.raises(exceptions.BadVersionError):
        kazoo.set(f"{place}/a", b"three", version=0)
    with pytest.raises(exceptions.NodeExistsError):
        kazoo.create(f"{place}/a")
    with pytest.raises(exceptions.NotEmptyError):
        kazoo.delete(place)
    with pytest.raises(exceptions.NoChildrenForEphemeralsError):
        kazoo.create(f"{place}/e/below")
    kazoo.delete(f"{place}/a", version=1)
    assert kazoo.exists(f"{place}/a") is None


def test_data_watch(kazoo: Any, place: str) -> None:
    """A watch reports a node's creation, each change, and its deletion."""
    seen = Seen()
    kazoo.DataWatch(f"{place}/n", seen)
    assert seen.next() is None
    kazoo.create(f"{place}/n", b"1")
    assert seen.next() == b"1"
    kazoo.set(f"{place}/n", b"2")
    assert seen.next() == b"2"
    kazoo.delete(f"{place}/n")
    assert seen.next() is None


def test_children_watch(kazoo: Any, place: str) -> None:
    """A watch reports children that are created and deleted."""
    seen = Seen()
    kazoo.ChildrenWatch(place, seen)
    assert seen.next() == []
    kazoo.create(f"{place}/a")
    assert seen.next() == ["a"]
    kazoo.delete(f"{place}/a")
    assert seen.next() == []


def test_lock(kazoo: Any, connect: Callable[..., Any], place: str) -> None:
    """One contender holds at a time, and the waiting ones are listed."""
    other = connect()
    first, second = kazoo.Lock(f"{place}/lock", "one"), other.Lock(f"{place}/lock", "two")
    assert first.acquire(timeout=PATIENCE)
    assert not second.acquire(blocking=False)
    assert first.contenders() == ["one"]
    first.release()
    with second:
        assert not first.acquire(blocking=False)
        assert second.contenders() == ["two"]


def test_transaction(kazoo: Any, place: str) -> None:
    """A transaction is applied completely or not at all, with a result for each operation."""
    transaction = kazoo.transaction()
    transaction.check(place, 0)
    transaction.create(f"{place}/a", b"one")
    transaction.set_data(f"{place}/a", b"two")
    transaction.delete(f"{place}/a")
    results = transaction.commit()
    assert (results[0], results[1], results[2].version, results[3]) == (True, f"{place}/a", 1, True)
    transaction = kazoo.transaction()
    transaction.create(f"{place}/b")
    transaction.check(place, 7)
    results = transaction.commit()
    assert isinstance(results[0], exceptions.RolledBackError)
    assert isinstance(results[1], exceptions.BadVersionError)
    assert kazoo.exists(f"{place}/b") is None


def test_authentication(kazoo: Any, connect: Callable[..., Any], place: str) -> None:
    """A node with an ACL for one user is refused to others."""
    from kazoo.security import make_digest_acl

    owner = connect(auth_data=[("digest", "user:secret")])
    owner.create(f"{place}/mine", b"data", acl=[make_digest_acl("user", "secret", all=True)])
    assert owner.get(f"{place}/mine")[0] == b"data"
    with pytest.raises(exceptions.NoAuthError):
        kazoo.get(f"{place}/mine")
    owner.delete(f"{place}/mine")


def test_an_expired_session(kazoo: Any, connect: Callable[..., Any], server: str, place: str) -> None:
    """kazoo finds out that its session expired, its ephemerals are gone, and it continues with a new
    session."""
    client = connect()
    states = Seen()
    client.add_listener(states)
    session, password = client.client_id
    client.create(f"{place}/mine", ephemeral=True)
    host, _, port = server.rpartition(":")
    asyncio.run(probe_zxid(host, int(port), session, password))
    states.until("LOST")
    states.until("CONNECTED")
    assert kazoo.exists(f"{place}/mine") is None
    assert client.client_id[0] != session


def test_commands(kazoo: Any) -> None:
    """kazoo sends four letter words, and learns the version from one of them."""
    assert kazoo.command(b"ruok") == "imok"
    assert (3, 6) <= kazoo.server_version()[:2] < (4, 0)
