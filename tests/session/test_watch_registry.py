"""The registry of the server's watches: all watchers of a path share one server watch."""

from __future__ import annotations

import pytest
from registry import Registry, Watcher, is_armed

from corral.session.watch_registry import CHUNK, WatchRegistry, WatchState
from corral.session.watchers import WatchEvent, WatchKind
from corral.wire import messages


def watched(*paths: str, armed: WatchState = WatchState.DATA) -> tuple[Registry, list[Watcher]]:
    """A registry with one watcher for each path."""
    registry, watchers = Registry(), []
    for path in paths:
        watchers.append(Watcher())
        registry.add(path, watchers[-1])
        if armed is not WatchState.NO:
            assert registry.mark_set(path, armed)
    return registry, watchers


def rearmed(registry: WatchRegistry, zxid: int = 5) -> list[tuple[int, list[str], list[str], list[str]]]:
    """The content of each message that sets watches again."""
    return [op.request.decode(body, 0, len(body)) for op, body in registry.rearm(zxid)]


def test_the_last_to_leave_takes_the_server_watch_along() -> None:
    """W4, W5: however many watchers a path has, the last one to leave removes the server's watch, once."""
    registry, [first] = watched("/a")
    second, stranger = Watcher(), Watcher()
    registry.add("/a", second)
    registry.add("/a", second)  # adding it twice has no further effect
    registry.remove("/a", stranger)
    registry.remove("/a", first)
    assert is_armed(registry, "/a")
    assert registry.said() == []
    registry.remove("/a", second)
    assert registry.said() == [("remove_watches", "/a", messages.WATCHER_DATA)]
    registry.remove("/a", second)
    assert registry.said() == []
    assert len(registry) == 0


@pytest.mark.parametrize("used_up", [False, True])
def test_there_is_nothing_to_remove_where_no_watch_is(used_up: bool) -> None:
    """W5: no removal is sent for a path whose watch was never set, or has fired."""
    registry, [watcher] = watched("/a", armed=WatchState.DATA if used_up else WatchState.NO)
    if used_up:
        registry.notify(WatchEvent.DATA_CHANGED, "/a")
    assert not is_armed(registry, "/a")
    registry.remove("/a", watcher)
    assert registry.said() == []


def test_a_watch_that_is_set_for_nobody() -> None:
    """W5: a watch that is set after all watchers have left is removed."""
    registry, [watcher] = watched("/a", armed=WatchState.NO)
    registry.remove("/a", watcher)
    registry.answered("/a", WatchKind.NODE, messages.GET, 0)
    assert registry.said() == [("remove_watches", "/a", messages.WATCHER_DATA)]
    assert not is_armed(registry, "/a")


@pytest.mark.parametrize("change", [WatchEvent.CREATED, WatchEvent.DELETED, WatchEvent.DATA_CHANGED])
def test_an_event_fires_all_who_watch_the_path(change: WatchEvent) -> None:
    """W4: an event reaches each watcher of its path, once and with its kind, and uses up the server's
    watch."""
    registry, [first, other] = watched("/a", "/b")
    second = Watcher()
    registry.add("/a", second)
    registry.notify(int(change), "/a")
    assert first.seen == second.seen == [change]
    assert other.seen == []
    assert (is_armed(registry, "/a"), is_armed(registry, "/b")) == (False, True)


@pytest.mark.parametrize("kind", [-2, -1, 0, 4, 5, 99])
def test_events_of_other_kinds_do_not_touch_a_node_watch(kind: int) -> None:
    """W7: an event about children, or of an unknown kind, is no change of the node itself, and leaves its
    watch set."""
    registry, [watcher] = watched("/a")
    registry.notify(kind, "/a")
    assert watcher.seen == []
    assert is_armed(registry, "/a")


def test_an_event_for_nobody() -> None:
    """An event that arrives after all watchers have left has no effect."""
    registry, _ = watched("/a")
    registry.notify(WatchEvent.DATA_CHANGED, "/gone")
    assert is_armed(registry, "/a")


def test_watchers_may_come_and_go_as_they_are_fired() -> None:
    """W5: if a watcher leaves, or adds another, when it is fired, the other watchers still get the event."""
    registry, [] = watched()
    late = Watcher()

    class Restless(Watcher):
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            super().fire(change, path, zxid)
            registry.remove("/a", self)
            registry.add("/a", late)

    watchers = [Restless(), Watcher(), Restless()]
    for watcher in watchers:
        registry.add("/a", watcher)
    registry.mark_set("/a", WatchState.DATA)
    registry.notify(WatchEvent.DELETED, "/a")
    assert [watcher.seen for watcher in watchers] == [[WatchEvent.DELETED]] * 3
    assert late.seen == []
    registry.notify(WatchEvent.CREATED, "/a")
    assert watchers[0].seen == [WatchEvent.DELETED]
    assert late.seen == [WatchEvent.CREATED]


def test_each_watch_is_set_again_as_what_it_was() -> None:
    """S4: watches of nodes that exist and of nodes that do not are set again in separate lists. Watches that
    are not set on the server are left out."""
    registry, _ = watched("/data")
    for path, armed in (("/exist", WatchState.EXIST), ("/none", WatchState.NO), ("/used", WatchState.DATA)):
        registry.add(path, Watcher())
        registry.mark_set(path, armed)
    registry.notify(WatchEvent.DELETED, "/used")
    assert rearmed(registry, 77) == [(77, ["/data"], ["/exist"], [])]
    assert rearmed(Registry()) == []


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u20ac"], ids=["one byte", "two bytes", "three bytes"])
@pytest.mark.parametrize("armed", [WatchState.DATA, WatchState.EXIST])
def test_chunks_have_every_watch_once(letter: str, armed: WatchState) -> None:
    """S4: every watch is in one message, in order, whatever characters its path has. No message exceeds the
    chunk size by more than one path."""
    paths = [f"/{letter * 1000}{n}" for n in range(400)]
    registry, _ = watched(*paths, armed=armed)
    sizes = [len(body) for _, body in registry.rearm(1)]
    assert len(sizes) > 1
    assert max(sizes) <= CHUNK
    assert [each[2 if armed is WatchState.DATA else 1] for each in rearmed(registry)] == [[]] * len(sizes)
    assert [path for each in rearmed(registry) for path in each[1] + each[2]] == paths


@pytest.mark.parametrize("max_request", [2_000, 20_000, 32_768, 0xFFFFF])
def test_chunks_fit_a_small_server(max_request: int) -> None:
    """S4: messages that set watches again fit a jute.maxbuffer of 32 KiB that we do not know of, and half of
    a limit that we know, so that a reconnect succeeds however many watches there are."""
    paths = [f"/{'x' * 90}{n}" for n in range(1200)]
    registry = Registry(max_request=max_request)
    for path in paths:
        registry.add(path, Watcher())
        registry.mark_set(path, WatchState.DATA)
    sizes = [len(body) for _, body in registry.rearm(1)]
    limit = min(16 * 1024, max_request // 2)
    assert limit - 200 < max(sizes) <= limit
    assert [path for each in rearmed(registry) for path in each[1]] == paths


def test_a_path_over_the_chunk_goes_alone() -> None:
    """S4: a path that is larger than a chunk is set again in a message of its own."""
    paths = ["/a", "/" + "x" * CHUNK, "/b"]
    registry, _ = watched(*paths)
    assert [each[1] for each in rearmed(registry)] == [[path] for path in paths]


@pytest.mark.parametrize("kind", [WatchKind.NODE, WatchKind.CHILDREN])
def test_a_watch_of_a_node_that_we_delete(kind: WatchKind) -> None:
    """S4, W5: a watcher may be dropped without a request to the server. The event that follows reaches
    nobody, and the watch is not set again."""
    registry, first, second = Registry(), Watcher(), Watcher()
    for watcher in (first, second):
        registry.add("/a", watcher, kind)
    registry.mark_set("/a", WatchState.DATA, kind)
    registry.forget("/a", first, kind)
    registry.notify(WatchEvent.DELETED, "/a")
    assert (first.seen, second.seen) == ([], [WatchEvent.DELETED])
    registry.mark_set("/a", WatchState.DATA, kind)
    registry.forget("/a", second, kind)
    registry.forget("/a", second, kind)
    registry.forget("/b", second, kind)
    assert rearmed(registry) == []
    registry.notify(WatchEvent.DELETED, "/a")
    assert second.seen == [WatchEvent.DELETED]
    assert (registry.said(), len(registry)) == ([], 0)


def test_a_watch_may_go_between_two_chunks() -> None:
    """S4: the garbage collector may drop a watch at any moment, even while watches are set again."""
    paths = [f"/{'x' * 1000}{n}" for n in range(20)]
    registry, watchers = watched(*paths)
    messages_ = registry.rearm(1)
    next(messages_)
    registry.remove(paths[-1], watchers[-1])
    rest = [path for op, body in messages_ for path in op.request.decode(body, 0, len(body))[1]]
    assert rest[-1] in paths[-2:]
    assert rest == paths[-len(rest) :] or rest == paths[-len(rest) - 1 : -1]


def test_at_the_end_of_a_session_everybody_looks_again() -> None:
    """W3: every watch ends with its session: all watchers are notified that anything may have changed,
    whether the server had a watch for them or not, and nothing is set again."""
    registry, watchers = watched("/a", "/b")
    unarmed = Watcher()
    registry.add("/c", unarmed)
    registry.reset()
    assert [watcher.seen for watcher in (*watchers, unarmed)] == [[WatchEvent.UNKNOWN]] * 3
    assert rearmed(registry) == []
    assert not is_armed(registry, "/a")


def test_all_is_forgotten_before_anybody_is_told() -> None:
    """W3: a watcher that reads again as soon as it is notified sets a watch of the new session, which
    stays."""
    registry, _ = watched("/a", "/b", "/c")

    class Eager(Watcher):
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            super().fire(change, path, zxid)
            for path in ("/a", "/b", "/c"):
                registry.mark_set(path, WatchState.DATA)

    registry.add("/b", Eager())
    registry.reset()
    assert [is_armed(registry, path) for path in ("/a", "/b", "/c")] == [True] * 3
