"""Persistent watches in the registry: requested once, what they cover, which watchers they feed, and how they
end (W7).

Here the requests and notifications, and their order, are tested. `test_watch_registry_model.py` has a server,
too.
"""

from __future__ import annotations

from typing import Any

import pytest
from driven import Driven
from registry import Registry, Watcher, is_armed
from scripted import Answer, Sent

from corral import errors
from corral.session.requests import Request
from corral.session.watch_registry import CHUNK, WatchState
from corral.session.watchers import WatchEvent, WatchKind
from corral.wire import messages

MODES = {WatchKind.PERSISTENT: 0, WatchKind.RECURSIVE: 1}
PERSISTENT_KINDS = list(MODES)
ONE_SHOT_KINDS = [WatchKind.NODE, WatchKind.CHILDREN]
ARMED, UNKNOWN = WatchEvent.ARMED, WatchEvent.UNKNOWN
LOSS = errors.ConnectionLoss("add_watch", "/a", "a test lost it")
UNIMPLEMENTED = errors.Unimplemented("add_watch", "/a")


def add_watch(path: str, kind: WatchKind) -> tuple[str, str, int]:
    """The request that adds a persistent watch."""
    return ("add_watch", path, MODES[kind])


def remove_any(path: str) -> tuple[str, str, int]:
    """The request that removes one."""
    return ("remove_watches", path, messages.WATCHER_ANY)


def watching(registry: Registry, path: str, kind: WatchKind) -> Watcher:
    """Add a watcher."""
    watcher = Watcher()
    registry.add(path, watcher, kind)
    return watcher


def established(path: str = "/a", kind: WatchKind = WatchKind.RECURSIVE) -> tuple[Registry, Watcher]:
    """A registry with one persistent watch, which the server has set."""
    registry = Registry()
    watcher = watching(registry, path, kind)
    registry.answer()
    assert registry.said() == [add_watch(path, kind)]
    assert watcher.news() == [(ARMED, path)]
    return registry, watcher


# Requesting


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_asked_for_once_for_many(kind: WatchKind) -> None:
    """W4: however many watchers want it, before and after it is set, the server is asked once. Each is
    notified ARMED once, as soon as it is set and not before. The last one to leave removes it, once."""
    registry = Registry()
    early = [watching(registry, "/a", kind) for _ in range(3)]
    registry.add("/a", early[0], kind)  # adding it twice has no further effect
    assert registry.said() == [add_watch("/a", kind)]
    assert [each.news() for each in early] == [[]] * 3
    registry.answer()
    late = watching(registry, "/a", kind)
    assert [each.news() for each in (*early, late)] == [[(ARMED, "/a")]] * 4
    assert registry.said() == []
    for each in (*early, late):
        assert registry.said() == []
        registry.remove("/a", each, kind)
    assert registry.said() == [remove_any("/a")]
    assert len(registry) == 0


@pytest.mark.parametrize("is_set", [True, False])
def test_no_persistent_one_where_a_recursive_one_is(is_set: bool) -> None:
    """W7: at the path of a recursive watch no plain persistent one is requested, since that would end the
    recursive one. Its watchers get the same events, and are notified ARMED when the recursive one is set."""
    registry = Registry()
    tree = watching(registry, "/a", WatchKind.RECURSIVE)
    if is_set:
        registry.answer()
    node = watching(registry, "/a", WatchKind.PERSISTENT)
    assert registry.said() == [add_watch("/a", WatchKind.RECURSIVE)]
    if not is_set:
        assert node.news() == []
        registry.answer()
    assert tree.news() == node.news() == [(ARMED, "/a")]
    registry.notify(WatchEvent.DATA_CHANGED, "/a")
    registry.notify(WatchEvent.CREATED, "/a/b")
    registry.notify(WatchEvent.DATA_CHANGED, "/a/b")
    assert node.news() == [(WatchEvent.DATA_CHANGED, "/a"), (WatchEvent.CHILDREN_CHANGED, "/a")]
    registry.remove("/a", node, WatchKind.PERSISTENT)
    assert registry.said() == []
    registry.notify(WatchEvent.CREATED, "/a/c")
    assert tree.news()[-1] == (WatchEvent.CREATED, "/a/c")


def test_when_the_recursive_one_goes_the_other_is_asked_for() -> None:
    """W7: removing the recursive watch ends the server's watch for the others, too. The removal is sent
    first, and they are notified ARMED again once their own watch is set."""
    registry, tree = established()
    node = watching(registry, "/a", WatchKind.PERSISTENT)
    assert node.news() == [(ARMED, "/a")]
    registry.remove("/a", tree, WatchKind.RECURSIVE)
    assert registry.said() == [remove_any("/a"), add_watch("/a", WatchKind.PERSISTENT)]
    assert node.news() == []
    registry.answer()
    assert node.news() == [(ARMED, "/a")]


def test_a_recursive_one_takes_the_place_of_a_persistent_one() -> None:
    """W7: a recursive watch is requested beside it. The watchers of the first one notice nothing, and leave
    without a request to the server."""
    registry, node = established(kind=WatchKind.PERSISTENT)
    tree = watching(registry, "/a", WatchKind.RECURSIVE)
    assert registry.said() == [add_watch("/a", WatchKind.RECURSIVE)]
    assert node.news() == []
    registry.answer()
    assert (tree.news(), node.news()) == ([(ARMED, "/a")], [])
    registry.remove("/a", node, WatchKind.PERSISTENT)
    assert registry.said() == []


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_left_while_it_is_asked_for(kind: WatchKind) -> None:
    """W5: if all watchers leave before it is set, a removal is sent after the request; the answer reaches
    nobody."""
    registry = Registry()
    watcher = watching(registry, "/a", kind)
    registry.remove("/a", watcher, kind)
    assert registry.said() == [add_watch("/a", kind), remove_any("/a")]
    assert registry.asked[0].waiter.done()
    registry.answer()
    assert watcher.seen == []
    assert (len(registry), registry.covers("/a")) == (0, False)


def test_left_and_wanted_again_while_it_is_asked_for() -> None:
    """W5: it is requested again, after the removal; the answer to the first request does not count."""
    registry = Registry()
    registry.remove("/a", watching(registry, "/a", WatchKind.RECURSIVE), WatchKind.RECURSIVE)
    watcher = watching(registry, "/a", WatchKind.RECURSIVE)
    request = add_watch("/a", WatchKind.RECURSIVE)
    assert registry.said() == [request, remove_any("/a"), request]
    first, second = registry.asked
    first.resolve(None)
    assert watcher.news() == []
    second.resolve(None)
    assert watcher.news() == [(ARMED, "/a")]


# Covering


@pytest.mark.parametrize("is_set", [True, False])
@pytest.mark.parametrize(
    ("kind", "path", "covered", "uncovered"),
    [
        (WatchKind.RECURSIVE, "/a", ["/a", "/a/b", "/a/b/c"], ["/", "/ab", "/ab/c", "/b/a", "/A"]),
        (WatchKind.RECURSIVE, "/", ["/", "/a", "/a/b"], []),
        (WatchKind.PERSISTENT, "/a", ["/a"], ["/", "/a/b", "/ab"]),
        (WatchKind.PERSISTENT, "/", ["/"], ["/a"]),
    ],
)
def test_what_is_covered(
    kind: WatchKind, path: str, covered: list[str], uncovered: list[str], is_set: bool
) -> None:
    """W7: a persistent watch covers its path, and a recursive one everything below it, from the moment in
    which it is requested. A path that is only a textual prefix does not count as an ancestor. After its end
    it covers nothing."""
    registry = Registry()
    watcher = watching(registry, path, kind)
    if is_set:
        registry.answer()
    assert [registry.covers(each) for each in covered] == [True] * len(covered)
    assert [registry.covers(each) for each in uncovered] == [False] * len(uncovered)
    registry.remove(path, watcher, kind)
    assert not any(map(registry.covers, covered))


def test_a_read_that_is_covered_sets_no_watch(driven: Driven) -> None:
    """W7: the session removes the watch flag of a read that is covered, but not of a read elsewhere or
    earlier."""

    def read(path: str) -> None:
        body = messages.encode_get(path, True)
        watches = (path, WatchKind.NODE)
        driven.machine.submit(Request(messages.GET, body, path, Answer(), watches=watches))

    read("/a")
    driven.machine.watches.add("/a", Watcher(), WatchKind.RECURSIVE)
    for path in ("/a", "/a/b", "/ab"):
        read(path)
    assert [_said(sent) for sent in driven.heard()] == [
        ("get", "/a", True),
        ("add_watch", "/a", 1),
        ("get", "/a", False),
        ("get", "/a/b", False),
        ("get", "/ab", True),
    ]


def _said(sent: Sent) -> tuple[object, ...]:
    op = messages.OPERATIONS[sent.opcode]
    return op.name, *op.request.decode(sent.body, 0, len(sent.body))


# Feeding


@pytest.mark.parametrize(
    ("event", "path", "told"),
    [
        (WatchEvent.CREATED, "/a", {"node /a": WatchEvent.CREATED, "tree /a": WatchEvent.CREATED}),
        (
            WatchEvent.DATA_CHANGED,
            "/a",
            {"node /a": WatchEvent.DATA_CHANGED, "tree /a": WatchEvent.DATA_CHANGED},
        ),
        (
            WatchEvent.DELETED,
            "/a",
            {"node /a": WatchEvent.DELETED, "children /a": WatchEvent.DELETED, "tree /a": WatchEvent.DELETED},
        ),
        (
            WatchEvent.CREATED,
            "/a/b",
            {
                "node /a/b": WatchEvent.CREATED,
                "children /a": WatchEvent.CHILDREN_CHANGED,
                "one /a/b": WatchEvent.CREATED,
                "tree /a": WatchEvent.CREATED,
            },
        ),
        (
            WatchEvent.DELETED,
            "/a/b",
            {
                "node /a/b": WatchEvent.DELETED,
                "children /a": WatchEvent.CHILDREN_CHANGED,
                "children /a/b": WatchEvent.DELETED,
                "one /a/b": WatchEvent.DELETED,
                "tree /a": WatchEvent.DELETED,
            },
        ),
        (
            WatchEvent.DATA_CHANGED,
            "/a/b",
            {
                "node /a/b": WatchEvent.DATA_CHANGED,
                "one /a/b": WatchEvent.DATA_CHANGED,
                "tree /a": WatchEvent.DATA_CHANGED,
            },
        ),
        (
            WatchEvent.CREATED,
            "/a/b/c",
            {"children /a/b": WatchEvent.CHILDREN_CHANGED, "tree /a": WatchEvent.CREATED},
        ),
        (WatchEvent.DATA_CHANGED, "/a/b/c", {"tree /a": WatchEvent.DATA_CHANGED}),
        (WatchEvent.CREATED, "/ab", {}),
        (WatchEvent.CREATED, "/ab/c", {}),
    ],
)
def test_who_is_fed(event: WatchEvent, path: str, told: dict[str, WatchEvent]) -> None:
    """W7: the events of a recursive watch feed every watcher that it covers: those of the node, and those of
    its parent's children, but not those of a path that only shares a textual prefix. A persistent watch below
    it gets the events of its own node from the recursive one, too, and those of its children from its own."""
    registry, tree = established()
    watchers = {
        f"{name} {each}": watching(registry, each, kind)
        for name, kind in (("node", WatchKind.NODE), ("children", WatchKind.CHILDREN))
        for each in ("/a", "/a/b")
    }
    watchers["tree /a"] = tree
    watchers["one /a/b"] = watching(registry, "/a/b", WatchKind.PERSISTENT)
    registry.answer()
    watchers["one /a/b"].news()
    registry.notify(int(event), path, 7)
    news = {name: [change for change, _ in each.news()] for name, each in watchers.items()}
    assert {name: changes for name, changes in news.items() if changes} == {
        name: [change] for name, change in told.items()
    }


def test_the_root_feeds_everybody() -> None:
    """W7: a recursive watch of the root is above every path; the root is the parent of top-level nodes."""
    registry, tree = established("/")
    node, children = watching(registry, "/a/b", WatchKind.NODE), watching(registry, "/", WatchKind.CHILDREN)
    registry.notify(WatchEvent.CREATED, "/a")
    registry.notify(WatchEvent.DATA_CHANGED, "/a/b")
    registry.notify(WatchEvent.DATA_CHANGED, "/")
    assert tree.news() == [
        (WatchEvent.CREATED, "/a"),
        (WatchEvent.DATA_CHANGED, "/a/b"),
        (WatchEvent.DATA_CHANGED, "/"),
    ]
    assert (node.news(), children.news()) == (
        [(WatchEvent.DATA_CHANGED, "/a/b")],
        [(WatchEvent.CHILDREN_CHANGED, "/")],
    )


def test_a_node_watch_that_the_server_still_has_is_told_once() -> None:
    """W4: a one-shot watch that was set before a recursive watch above it stays as it is; the server sends
    one event for both."""
    registry = Registry()
    children = watching(registry, "/a/b", WatchKind.CHILDREN)
    registry.mark_set("/a/b", WatchState.CHILDREN, WatchKind.CHILDREN)
    watching(registry, "/a", WatchKind.RECURSIVE)
    registry.answer()
    assert is_armed(registry, "/a/b", WatchKind.CHILDREN)
    registry.notify(WatchEvent.CREATED, "/a/b/c")
    registry.notify(WatchEvent.CHILDREN_CHANGED, "/a/b")
    assert children.news() == [(WatchEvent.CHILDREN_CHANGED, "/a/b")]


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_watchers_come_and_go_as_they_are_fired(kind: WatchKind) -> None:
    """W5: if a watcher leaves when it is fired, removes another and adds a third, the others still get the
    event. The last one removes the server's watch."""
    registry, first = established(kind=kind)
    second, late = Watcher(), Watcher()

    class Restless(Watcher):
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            super().fire(change, path, zxid)
            if change > 0:
                registry.add("/a", late, kind)
                for each in (self, first, second):
                    registry.remove("/a", each, kind)

    deadline_moved = Restless()
    for each in (deadline_moved, second):
        registry.add("/a", each, kind)
    registry.notify(WatchEvent.DATA_CHANGED, "/a")
    assert deadline_moved.seen == second.seen == [ARMED, WatchEvent.DATA_CHANGED]
    assert first.seen == [ARMED, WatchEvent.DATA_CHANGED]
    assert late.seen == [ARMED]
    assert registry.said() == []
    registry.remove("/a", late, kind)
    assert registry.said() == [remove_any("/a")]


# Ending


@pytest.mark.parametrize("kind", ONE_SHOT_KINDS)
@pytest.mark.parametrize("persistent", PERSISTENT_KINDS)
def test_the_removal_of_one_kind_is_not_that_of_another(persistent: WatchKind, kind: WatchKind) -> None:
    """W7: at a path with a persistent watch no one-shot watch is removed, since that would end the persistent
    one: neither one that was set before, nor one that nobody wants any more when its read is answered."""
    registry = Registry()
    early, late = watching(registry, "/a", kind), watching(registry, "/b", kind)
    registry.mark_set("/a", WatchState.DATA, kind)
    for path in ("/a", "/b"):
        watching(registry, path, persistent)
    registry.said()
    registry.remove("/a", early, kind)
    registry.remove("/b", late, kind)
    registry.answered("/b", kind, messages.GET, 0)
    registry.answer()
    registry.answered("/b", kind, messages.GET, 0)
    assert registry.said() == []


def test_a_one_shot_watch_below_is_removed_by_itself() -> None:
    """W5: if only a recursive watch of an ancestor covers a path, the last watcher of a one-shot watch there
    removes that."""
    registry, _ = established()
    watcher = watching(registry, "/a/b", WatchKind.NODE)
    registry.mark_set("/a/b", WatchState.DATA)
    registry.remove("/a/b", watcher)
    assert registry.said() == [("remove_watches", "/a/b", messages.WATCHER_DATA)]


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_those_it_fed_look_again_behind_its_removal(kind: WatchKind) -> None:
    """W7: the removal is sent first, since it would end watches that are set by later reads; by then it
    covers nothing. Other watchers of the path are not notified."""
    registry, persistent = established(kind=kind)
    covered: list[tuple[list[tuple[str, str, int]], bool]] = []

    class Reads(Watcher):
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            super().fire(change, path, zxid)
            covered.append((registry.said(), registry.covers("/a")))

    fed, sibling = Reads(), watching(registry, "/ab", WatchKind.NODE)
    registry.add("/a", fed, WatchKind.CHILDREN)
    registry.remove("/a", persistent, kind)
    assert covered == [([remove_any("/a")], False)]
    assert (fed.news(), sibling.news()) == ([(UNKNOWN, "/a")], [])


def test_those_below_with_a_watch_of_their_own_are_left_alone() -> None:
    """W4: watchers that another server watch covers, too, have lost nothing."""
    registry, tree = established()
    own, fed = watching(registry, "/a/b", WatchKind.NODE), watching(registry, "/a/c", WatchKind.NODE)
    registry.mark_set("/a/b", WatchState.DATA)
    registry.remove("/a", tree, WatchKind.RECURSIVE)
    assert (own.news(), fed.news()) == ([], [(UNKNOWN, "/a/c")])


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_refused(kind: WatchKind) -> None:
    """W6, W7: all watchers that want it are notified with the reason, and it is not requested again until a
    new watcher wants it. Those that it was to feed read again; those with a watch of their own have lost
    nothing."""
    registry = Registry()
    own = watching(registry, "/a", WatchKind.NODE)
    registry.mark_set("/a", WatchState.DATA)
    wanting = [watching(registry, "/a", kind) for _ in range(2)]
    fed = watching(registry, "/a", WatchKind.CHILDREN)
    registry.said()
    registry.answer(UNIMPLEMENTED)
    assert [each.refusals for each in wanting] == [[UNIMPLEMENTED]] * 2
    assert [each.news() for each in (*wanting, own, fed)] == [[], [], [], [(UNKNOWN, "/a")]]
    assert is_armed(registry, "/a")
    assert not registry.covers("/a")
    for each in wanting:
        registry.remove("/a", each, kind)
    assert registry.said() == []
    watching(registry, "/a", kind)
    assert registry.said() == [add_watch("/a", kind)]


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_lost_with_the_connection(kind: WatchKind) -> None:
    """W7: a request whose outcome is unknown is sent again before anybody is notified, so that their reads
    come after it."""
    registry = Registry()
    said: list[list[tuple[str, str, int]]] = []

    class Reads(Watcher):
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            super().fire(change, path, zxid)
            said.append(registry.said())

    watcher, fed = Reads(), watching(registry, "/a", WatchKind.NODE)
    registry.add("/a", watcher, kind)
    registry.said()
    registry.answer(LOSS)
    assert said == [[add_watch("/a", kind)]]
    assert (watcher.news(), fed.news()) == ([(UNKNOWN, "/a")], [(UNKNOWN, "/a")])
    assert watcher.refusals == []
    assert registry.covers("/a")
    registry.answer()
    assert watcher.news() == [(ARMED, "/a")]


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_connections_that_break_on_it(kind: WatchKind) -> None:
    """W3: a request on which one connection after another breaks is not sent again; its watchers are
    notified."""
    registry = Registry()
    watcher, fed = watching(registry, "/a", kind), watching(registry, "/a", WatchKind.NODE)
    for losses in range(1, errors.ConnectionLoss.MOST_LOSSES + 1):
        assert registry.said() == [add_watch("/a", kind)]
        assert watcher.refusals == []
        loss = errors.ConnectionLoss("add_watch", "/a", "a test lost it")
        loss.losses = losses
        registry.answer(loss)
    assert registry.said() == []
    assert watcher.refusals == [loss]
    assert fed.news()[-1] == (UNKNOWN, "/a")
    assert not registry.covers("/a")


@pytest.mark.parametrize("kind", PERSISTENT_KINDS)
def test_a_path_that_is_too_large_to_ask_for(kind: WatchKind) -> None:
    """S7: a request over the size limit is not sent, and its watchers are notified."""
    registry, path = Registry(max_request=100), "/" + "x" * 100
    watcher = watching(registry, path, kind)
    [error] = watcher.refusals
    assert isinstance(error, errors.FrameTooLarge)
    assert registry.said() == []
    registry.remove(path, watcher, kind)
    assert len(registry) == 0


class Looks(dict[str, Any]):
    """A table that counts its lookups."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)


def test_an_event_far_below() -> None:
    """W7: the cost of an event depends on what is watched, not on the path in it, which may have any number
    of levels."""
    registry = Registry()
    roots = ["/", "/a", "/b", "/a/a", "/a/b"]
    trees = [watching(registry, path, WatchKind.RECURSIVE) for path in roots]
    registry.answer()
    for tree in trees:
        tree.news()
    registry._recursive = registry._by_kind[WatchKind.RECURSIVE] = table = Looks(registry._recursive)
    path = "/a" * 300_000
    registry.notify(int(WatchEvent.DATA_CHANGED), path)
    assert registry.covers(path)
    assert table.looks < 4 * len(roots)
    told = [(WatchEvent.DATA_CHANGED, path)]
    assert [tree.news() for tree in trees] == [told, told, [], told, []]


def test_many_persistent_watches() -> None:
    """W4: adding a watcher costs the same however many there are: the others are not visited."""
    registry = Registry()
    for number in range(100):
        watching(registry, f"/{number}", WatchKind.RECURSIVE)
    registry._recursive = registry._by_kind[WatchKind.RECURSIVE] = table = Looks(registry._recursive)
    table.items = None  # type: ignore[assignment,method-assign]  # nobody iterates over all of them
    watcher = watching(registry, "/more", WatchKind.RECURSIVE)
    registry.remove("/more", watcher, WatchKind.RECURSIVE)
    assert table.looks < 20


# Sessions and connections


def test_a_new_session_is_asked_before_anybody_is_told() -> None:
    """W3, W7: at the end of a session all persistent watches are requested again, once each, before any
    watcher reads again. Then all watchers are notified, and ARMED follows when the watches are set. An answer
    from the old session does not count."""
    registry, tree = established()
    asked: list[int] = []

    class Reads(Watcher):
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            super().fire(change, path, zxid)
            asked.append(len(registry.asked))

    node, below = Reads(), Reads()
    registry.add("/a", node, WatchKind.NODE)
    registry.add("/a/b", below, WatchKind.CHILDREN)
    one = watching(registry, "/b", WatchKind.PERSISTENT)
    [old] = registry.asked
    registry.asked.clear()
    registry.said()
    registry.reset()
    assert registry.said() == [add_watch("/a", WatchKind.RECURSIVE), add_watch("/b", WatchKind.PERSISTENT)]
    assert asked == [2, 2]
    assert [each.news() for each in (tree, one, node, below)] == [
        [(UNKNOWN, path)] for path in ("/a", "/b", "/a", "/a/b")
    ]
    assert old.waiter.done()
    old.resolve(None)
    assert one.news() == []
    registry.answer()
    assert (tree.news(), one.news(), node.news()) == ([(ARMED, "/a")], [(ARMED, "/b")], [])


def test_a_reconnect() -> None:
    """W6, W7: persistent watches are set again in their own mode. They, and all watchers that they feed, read
    again (ZOOKEEPER-4698), and no others do. ARMED follows when the server has answered. A watch whose
    request is pending is neither set again nor notified."""
    registry, tree = established()
    one = watching(registry, "/b", WatchKind.PERSISTENT)
    registry.answer()
    own, fed = watching(registry, "/c", WatchKind.NODE), watching(registry, "/a/b", WatchKind.NODE)
    registry.mark_set("/c", WatchState.EXIST)
    asked = watching(registry, "/d", WatchKind.RECURSIVE)
    one.news()
    [(op, body)] = registry.rearm(5)
    assert op is messages.SET_WATCHES2
    assert op.request.decode(body, 0, len(body)) == (5, [], ["/c"], [], ["/b"], ["/a"])
    registry.invalidate_persistent()
    everybody = (tree, one, own, fed, asked)
    assert [each.news() for each in everybody] == [
        [(UNKNOWN, "/a")], [(UNKNOWN, "/b")], [], [(UNKNOWN, "/a/b")], [],
    ]  # fmt: skip
    registry.confirm_rearmed()
    assert [each.news() for each in everybody] == [[(ARMED, "/a")], [(ARMED, "/b")], [], [], []]


def test_servers_that_know_no_persistent_watches_are_not_asked_to_set_any() -> None:
    """S4: without persistent watches the message is the one that every server knows, also if there were some
    before."""
    registry, tree = established()
    watching(registry, "/b", WatchKind.NODE)
    registry.mark_set("/b", WatchState.DATA)
    registry.remove("/a", tree, WatchKind.RECURSIVE)
    assert [op for op, _ in registry.rearm(5)] == [messages.SET_WATCHES]


def test_chunks_have_every_kind_once() -> None:
    """S4: watches of all kinds are split into chunks below the limit, each watch in one of them. A chunk
    without persistent watches is a message that every server knows."""
    registry = Registry()
    pad = "x" * 1000
    paths = {kind: [f"/{kind.value}-{pad}{number}" for number in range(100)] for kind in WatchKind}
    for kind in WatchKind:
        for path in paths[kind]:
            watching(registry, path, kind)
            if kind in ONE_SHOT_KINDS:
                registry.mark_set(
                    path, WatchState.DATA if kind is WatchKind.NODE else WatchState.CHILDREN, kind
                )
    registry.answer()
    chunks = list(registry.rearm(5))
    assert {op for op, _ in chunks} == {messages.SET_WATCHES, messages.SET_WATCHES2}
    assert max(len(body) for _, body in chunks) <= CHUNK
    found: dict[WatchKind, list[str]] = {kind: [] for kind in WatchKind}
    for op, body in chunks:
        zxid, data, exist, children, *persistent = op.request.decode(body, 0, len(body))
        assert (zxid, exist) == (5, [])
        found[WatchKind.NODE] += data
        found[WatchKind.CHILDREN] += children
        if op is messages.SET_WATCHES2:
            assert any(persistent)
            found[WatchKind.PERSISTENT] += persistent[0]
            found[WatchKind.RECURSIVE] += persistent[1]
    assert found == paths
