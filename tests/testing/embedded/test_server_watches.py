"""The server's table of watches: which watchers get which event, and what is left."""

from __future__ import annotations

from collections.abc import Iterable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from corral.testing.embedded.acls import OPEN
from corral.testing.embedded.codes import MARSHALLING_ERROR, NO_WATCHER, Refused
from corral.testing.embedded.tree import Node, parent_of
from corral.testing.embedded.watches import (
    CHILDREN_CHANGED,
    CREATED,
    DATA_CHANGED,
    DELETED,
    Firing,
    Mode,
    ServerWatches,
)

VERSIONS = ["3.8", "3.9"]
CHILDREN, DATA, ANY, PERSISTENT, RECURSIVE = 1, 2, 3, 4, 5


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Tests with this fixture hold for every version."""
    return str(request.param)


def told(*firings: Firing[str]) -> list[tuple[int, str, list[str]]]:
    """Firings that reach at least one watcher."""
    return [(kind, path, list(watchers)) for kind, path, watchers in firings if list(watchers)]


def is_watched(watches: ServerWatches[str], path: str, kind: int, watcher: str) -> bool:
    """Whether checkWatches succeeds."""
    try:
        watches.check(path, kind, watcher)
    except Refused:
        return False
    return True


def test_one_shot(version: str) -> None:
    """A one-shot watch is used up by the first event."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_data("/a", "x")
    watches.watch_data("/a", "y")
    assert watches.count() == 2
    assert told(watches.data_changed("/a")) == [(DATA_CHANGED, "/a", ["x", "y"])]
    assert told(watches.data_changed("/a")) == []
    assert watches.count() == 0
    assert watches.data_watchers() == {"x": [], "y": []}


def test_creation(version: str) -> None:
    """A creation fires data watches of the path, then child watches of the parent."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_children("/a", "x")
    watches.watch_data("/a/b", "x")
    watches.watch_data("/a", "x")
    assert told(*watches.created("/a/b", "/a")) == [
        (CREATED, "/a/b", ["x"]),
        (CHILDREN_CHANGED, "/a", ["x"]),
    ]
    assert watches.data_paths() == {"/a": ["x"]}
    assert watches.child_paths() == {}


def test_deletion_is_told_once(version: str) -> None:
    """A deletion fires once for a watcher with both a data watch and a child watch; both are used up."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_data("/a/b", "x")
    watches.watch_children("/a/b", "x")
    watches.watch_children("/a/b", "y")
    watches.watch_children("/a", "x")
    assert told(*watches.deleted("/a/b", "/a")) == [
        (DELETED, "/a/b", ["x", "y"]),
        (CHILDREN_CHANGED, "/a", ["x"]),
    ]
    assert watches.count() == 0


def test_persistent(version: str) -> None:
    """A persistent watch fires repeatedly, for data and for children."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_persistently("/a", "x", Mode.PERSISTENT)
    for _ in range(2):
        assert told(watches.data_changed("/a")) == [(DATA_CHANGED, "/a", ["x"])]
        assert told(*watches.created("/a/b", "/a")) == [(CHILDREN_CHANGED, "/a", ["x"])]
    assert told(*watches.deleted("/a", "/")) == [(DELETED, "/a", ["x"])]
    assert told(watches.data_changed("/a/b")) == []


def test_recursive(version: str) -> None:
    """A recursive watch fires for everything below its path, and never for a change of children."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_persistently("/a", "x", Mode.RECURSIVE)
    watches.watch_persistently("/", "y", Mode.RECURSIVE)
    assert told(*watches.created("/a/b", "/a")) == [(CREATED, "/a/b", ["x", "y"])]
    assert told(*watches.created("/ab", "/")) == [(CREATED, "/ab", ["y"])]
    assert told(watches.data_changed("/a")) == [(DATA_CHANGED, "/a", ["x", "y"])]
    assert told(*watches.deleted("/a/b/c", "/a/b")) == [(DELETED, "/a/b/c", ["x", "y"])]
    assert told(watches.data_changed("/")) == [(DATA_CHANGED, "/", ["y"])]


def test_one_shot_ends_the_recursive_up_to_3_8() -> None:
    """ZOOKEEPER-4466: setting a mode replaces the one before."""
    watches: ServerWatches[str] = ServerWatches(version="3.8")
    watches.watch_persistently("/a", "x", Mode.RECURSIVE)
    watches.watch_data("/a", "x")
    assert told(watches.data_changed("/a/b")) == []
    assert told(watches.data_changed("/a")) == [(DATA_CHANGED, "/a", ["x"])]
    assert told(watches.data_changed("/a")) == []


def test_modes_live_side_by_side_from_3_9() -> None:
    """When a one-shot watch is used up, the other modes stay."""
    watches: ServerWatches[str] = ServerWatches(version="3.9")
    watches.watch_persistently("/a", "x", Mode.RECURSIVE)
    watches.watch_data("/a", "x")
    for _ in range(2):
        assert told(watches.data_changed("/a/b")) == [(DATA_CHANGED, "/a/b", ["x"])]
        assert told(watches.data_changed("/a")) == [(DATA_CHANGED, "/a", ["x"])]


def test_recursive_one_is_in_both_tables_up_to_3_8() -> None:
    """A recursive watch is in both tables: it counts twice, and checking for a child watch finds it."""
    for version, count in (("3.8", 2), ("3.9", 1)):
        watches: ServerWatches[str] = ServerWatches(version=version)
        watches.watch_persistently("/a", "x", Mode.RECURSIVE)
        assert watches.count() == count
        assert is_watched(watches, "/a", CHILDREN, "x") is (version == "3.8")


def test_checking_finds_anybodys_up_to_3_8() -> None:
    """A check finds the watch of any client."""
    watches: ServerWatches[str] = ServerWatches(version="3.8")
    watches.watch_data("/a", "x")
    assert is_watched(watches, "/a", DATA, "y")
    assert not is_watched(watches, "/a", CHILDREN, "x")
    assert is_watched(watches, "/a", ANY, "y")


def test_checking_finds_ones_own_from_3_9() -> None:
    """A check finds only the client's own watches, of the requested kind."""
    watches: ServerWatches[str] = ServerWatches(version="3.9")
    watches.watch_data("/a", "x")
    watches.watch_persistently("/a", "y", Mode.PERSISTENT)
    watches.watch_persistently("/a", "y", Mode.RECURSIVE)
    found = {
        who: [kind for kind in range(1, 6) if is_watched(watches, "/a", kind, who)] for who in ("x", "y", "z")
    }
    assert found == {"x": [DATA, ANY], "y": [ANY, PERSISTENT, RECURSIVE], "z": []}


def test_removal(version: str) -> None:
    """A client can remove only its own watches, and only those that exist."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_data("/a", "x")
    watches.watch_children("/a", "x")
    watches.watch_data("/a", "y")
    watches.remove("/a", DATA, "x")
    assert told(watches.data_changed("/a")) == [(DATA_CHANGED, "/a", ["y"])]
    with pytest.raises(Refused) as refused:
        watches.remove("/a", DATA, "x")
    assert refused.value.code == NO_WATCHER
    watches.remove("/a", ANY, "x")
    assert watches.count() == 0


def test_removal_of_one_mode_from_3_9() -> None:
    """Removing one mode leaves the others."""
    watches: ServerWatches[str] = ServerWatches(version="3.9")
    for mode in (Mode.PERSISTENT, Mode.RECURSIVE):
        watches.watch_persistently("/a", "x", mode)
    watches.watch_data("/a", "x")
    watches.remove("/a", RECURSIVE, "x")
    assert told(watches.data_changed("/a/b")) == []
    watches.remove("/a", DATA, "x")
    assert is_watched(watches, "/a", PERSISTENT, "x")
    watches.remove("/a", PERSISTENT, "x")
    assert watches.count() == 0
    assert watches.data_watchers() == {}


@pytest.mark.parametrize(("version", "kind"), [("3.8", 0), ("3.8", 4), ("3.8", 5), ("3.9", 0), ("3.9", 6)])
def test_no_such_type(version: str, kind: int) -> None:
    """An unknown type of watch is answered like a request that cannot be decoded."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    for request in (watches.check, watches.remove):
        with pytest.raises(Refused) as refused:
            request("/a", kind, "x")
        assert refused.value.code == MARSHALLING_ERROR


def test_forgetting(version: str) -> None:
    """A connection that is gone has no watches."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    watches.watch_persistently("/a", "x", Mode.RECURSIVE)
    watches.watch_children("/a", "x")
    watches.watch_data("/a", "y")
    watches.forget("x")
    assert watches.data_paths() == {"/a": ["y"]}
    assert watches.child_paths() == {}
    assert told(watches.data_changed("/a/b")) == []


def nodes(**numbers: tuple[int, int]) -> dict[str, Node]:
    """Nodes below the root, by name, with their mzxid and pzxid."""
    found = {}
    for name, (mzxid, pzxid) in numbers.items():
        found[f"/{name}"] = node = Node(b"", OPEN)
        node.mzxid, node.pzxid = mzxid, pzxid
    return found


def test_restoring(version: str) -> None:
    """After a reconnect the events that were missed are sent; other one-shot watches are set again;
    persistent watches are always set."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    tree = nodes(old=(5, 5), data=(6, 5), children=(5, 6))
    every = [*tree, "/gone"]
    missed = watches.restore("x", 5, every, every, every, ["/p"], ["/q"], tree.get)
    assert missed == [
        (DATA_CHANGED, "/data"),
        (DELETED, "/gone"),
        (CREATED, "/old"),
        (CREATED, "/data"),
        (CREATED, "/children"),
        (CHILDREN_CHANGED, "/children"),
        (DELETED, "/gone"),
    ]
    assert set(watches.data_paths()) == {"/old", "/children", "/gone", "/p", "/q"}
    assert set(watches.child_paths()) == {"/old", "/data", "/p"} | ({"/q"} if version == "3.8" else set())


# Random actions, against a model

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab"]
WHO = ["x", "y"]
ACTIONS = ["data", "children", "persistent", "recursive", "set", "create", "delete", "remove", "forget"]


class Model:
    """The watches as a plain set of (table, path, watcher, mode)."""

    def __init__(self, version: str) -> None:
        self.is_old = version == "3.8"
        self.known: set[tuple[str, str, str, Mode]] = set()

    def add(self, table: str, path: str, who: str, mode: Mode) -> None:
        """Set a watch."""
        if self.is_old:
            self.known -= {(table, path, who, other) for other in Mode}
        self.known.add((table, path, who, mode))

    def fire(self, table: str, path: str, kind: int) -> set[str]:
        """Fire watches; returns the watchers."""
        above = {path, "/"} | {path[:at] for at, character in enumerate(path) if character == "/" and at}
        found = set()
        for watch in set(self.known):
            of, where, who, mode = watch
            is_fired = (
                (where in above and kind != CHILDREN_CHANGED) if mode is Mode.RECURSIVE else where == path
            )
            if of == table and is_fired:
                found.add(who)
                if mode is Mode.ONE_SHOT:
                    self.known.discard(watch)
        return found

    def remove(self, path: str, who: str) -> bool:
        """Remove all of a connection's watches of a path."""
        mine = {watch for watch in self.known if watch[1:3] == (path, who)}
        self.known -= mine
        return bool(mine)


def who_is_told(*firings: Firing[str]) -> list[set[str]]:
    """The watchers of each firing."""
    return [set(watchers) for _, _, watchers in firings]


@given(
    st.sampled_from(VERSIONS),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(PATHS), st.sampled_from(WHO)), max_size=40),
)
def test_like_a_set(version: str, actions: Iterable[tuple[str, str, str]]) -> None:
    """The table notifies the same watchers as the model, and keeps the same watches."""
    watches: ServerWatches[str] = ServerWatches(version=version)
    model = Model(version)
    for action, path, who in actions:
        parent = parent_of(path) or "/"
        if action == "data":
            watches.watch_data(path, who)
            model.add("data", path, who, Mode.ONE_SHOT)
        elif action == "children":
            watches.watch_children(path, who)
            model.add("children", path, who, Mode.ONE_SHOT)
        elif action == "persistent":
            watches.watch_persistently(path, who, Mode.PERSISTENT)
            model.add("data", path, who, Mode.PERSISTENT)
            model.add("children", path, who, Mode.PERSISTENT)
        elif action == "recursive":
            watches.watch_persistently(path, who, Mode.RECURSIVE)
            model.add("data", path, who, Mode.RECURSIVE)
            if model.is_old:
                model.add("children", path, who, Mode.RECURSIVE)
        elif action == "set":
            assert who_is_told(watches.data_changed(path)) == [model.fire("data", path, DATA_CHANGED)]
        elif action == "create":
            assert who_is_told(*watches.created(path, parent)) == [
                model.fire("data", path, CREATED),
                model.fire("children", parent, CHILDREN_CHANGED),
            ]
        elif action == "delete":
            assert who_is_told(*watches.deleted(path, parent)) == [
                model.fire("data", path, DELETED) | model.fire("children", path, DELETED),
                model.fire("children", parent, CHILDREN_CHANGED),
            ]
        elif action == "remove":
            try:
                watches.remove(path, ANY, who)
                removed = True
            except Refused:
                removed = False
            assert removed is model.remove(path, who)
        else:
            watches.forget(who)
            model.known = {watch for watch in model.known if watch[2] != who}
        tables = {"data": watches.data_paths(), "children": watches.child_paths()}
        found = {
            (table, path, who)
            for table, paths in tables.items()
            for path, watchers in paths.items()
            for who in watchers
        }
        assert found == {watch[:3] for watch in model.known}
        assert watches.count() == len(found)
        by_watcher = {(path, who) for who, paths in watches.data_watchers().items() for path in paths}
        assert by_watcher == {(path, who) for table, path, who in found if table == "data"}
