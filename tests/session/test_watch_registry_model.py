"""The registry and its session against a server's own table of watches, at random.

At one end is a `Machine` with watchers of every kind. At the other end is the embedded server's core, which
has the tree, and watches as 3.8 or as 3.9 implements them. Between them are two queues of frames. Only a rule
moves a frame, so any request may be late, and any event may be late or lost with its connection.

A watcher knows what it has read. Whenever the system is at rest, every watcher that was not notified of a
possible change knows the current state (W3), and the server has no watch that nobody wants (W5). States are
compared by their zxids, so a change that was undone counts as a change.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from corral import acl, errors
from corral.session.machine import Machine
from corral.session.requests import Request
from corral.session.states import ConnectionPhase
from corral.session.watchers import WatchEvent, WatchKind
from corral.testing.embedded.server_connection import ServerConnection
from corral.testing.embedded.zookeeper import Config, ZooKeeper
from corral.wire import messages

NOW = 100.0
"""The clock stands still: no test here depends on time."""
T = 12.0
PATHS = ["/", "/a", "/ab", "/a/b", "/a/b/c"]
"""Parents before their children."""
HOW = st.sampled_from(["set", "delete", "recreate"])
UNKNOWN_OPCODE = 999
ALL = 10_000
REST = 100
"""If messages still cause other messages after so many rounds, there is an endless loop."""

State = tuple[int, ...] | None
"""A node as a watcher knows it, by zxids; None if it does not exist."""


def frames_of(data: bytes) -> Iterator[bytes]:
    """The frames of a stream, each without its length."""
    while data:
        end = 4 + int.from_bytes(data[:4])
        yield data[4:end]
        data = data[end:]


class Connection:
    """One connection, and the frames in transit on it. The server's end is a `ServerConnection`."""

    def __init__(self, core: ZooKeeper) -> None:
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes | None] = deque()  # None where the stream ends
        self.link: ServerConnection = core.accept(self, NOW)

    def send(self, frame: bytes) -> None:
        self.to_client.append(frame)

    def close(self) -> None:
        self.to_client.append(None)


class OneShot:
    """Reads with a watch, and reads again when the watch fires: at once, or when a rule says so.

    For a node it reads its existence, or (with `leaves`) its data, like a lock that waits in line, and leaves
    when the node is deleted. For children it reads as a `ReadFeed` does, which watches the node's existence
    if it does not exist.
    """

    def __init__(
        self, model: Model, path: str, kind: WatchKind, *, eager: bool, leaves: bool = False
    ) -> None:
        self.path, self.kind, self.eager, self.leaves = path, kind, eager, leaves
        self.known: State = None
        self.stale = True
        self.gone = False
        self._model = model
        self._op = {True: messages.GET, False: messages.EXISTS}[leaves]
        if kind is WatchKind.CHILDREN:
            self._op = messages.CHILDREN2
        self._reading: messages.Operation | None = None
        self._on_existence = False
        model.machine.watches.add(path, self, kind)
        self.look()

    def look(self) -> None:
        if self._reading is None and not self.gone:
            self.stale = False
            self._read(self._op, self.kind)

    def leave(self) -> None:
        self.gone = True
        self._model.machine.watches.remove(self.path, self, self.kind)
        self._watch_existence(False)

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        assert not self.gone
        assert path == self.path
        assert change is not WatchEvent.ARMED
        self.stale = True
        if self.eager:
            self.look()

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        op, self._reading = self._reading, None
        if self.gone:
            return
        if op is messages.EXISTS and self.kind is WatchKind.CHILDREN:
            self._read(self._op, self.kind)  # created since
            return
        self._watch_existence(False)
        stat = result if op is messages.EXISTS else result[1]
        self._knows((stat.czxid, stat.pzxid if self.kind is WatchKind.CHILDREN else stat.mzxid))

    def set_exception(self, error: BaseException, /) -> None:
        op, self._reading = self._reading, None
        if self.gone:
            return
        if isinstance(error, errors.ConnectionLoss):
            self.look()
        elif not isinstance(error, errors.NoNode):
            raise error
        elif op is messages.CHILDREN2:
            self._watch_existence(True)
            self._read(messages.EXISTS, WatchKind.NODE)
        elif op is messages.GET:
            self._model.leave(self)
        else:
            self._knows(None)

    def actual(self) -> State:
        """The current state on the server."""
        node = self._model.core.tree.find(self.path)
        if node is None:
            return None
        return node.czxid, node.pzxid if self.kind is WatchKind.CHILDREN else node.mzxid

    def check(self) -> None:
        """Check it at rest."""
        assert self._reading is None
        assert not (self.stale and self.eager)
        assert self.stale or self.known == self.actual(), f"{self} was not told"

    def _knows(self, state: State) -> None:
        self.known = state
        if self.stale and self.eager:
            self.look()

    def _read(self, op: messages.Operation, kind: WatchKind) -> None:
        self._reading = op
        body = op.request.encode(self.path, True)
        self._model.machine.submit(Request(op, body, self.path, self, watches=(self.path, kind)))

    def _watch_existence(self, wanted: bool) -> None:
        if wanted is not self._on_existence:
            self._on_existence = wanted
            watches = self._model.machine.watches
            (watches.add if wanted else watches.remove)(self.path, self, WatchKind.NODE)

    def __repr__(self) -> str:
        return f"<{'eager' if self.eager else 'lazy'} {self.kind.value} of {self.path}>"


class Persistent:
    """Reads whatever an event names, and everything when anything may have changed. It learns of that in one
    of two ways: as a tree does, which reads after its request and then heeds UNKNOWN; or as a consumer of
    bare events does, which waits for ARMED."""

    def __init__(self, model: Model, path: str, kind: WatchKind, *, by_armed: bool) -> None:
        self.path, self.kind, self.by_armed = path, kind, by_armed
        self.known: dict[str, State] = {}
        self.gone = False
        self._model = model
        below = path if path == "/" else path + "/"
        self._scope = [
            each for each in PATHS if each == path or (kind is WatchKind.RECURSIVE and each.startswith(below))
        ]
        model.machine.watches.add(path, self, kind)
        if not by_armed:
            self._look(*self._scope)

    def leave(self) -> None:
        self.gone = True
        self._model.machine.watches.remove(self.path, self, self.kind)

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        assert not self.gone
        assert path in self._scope
        if change > 0:
            assert self.kind is WatchKind.PERSISTENT or change is not WatchEvent.CHILDREN_CHANGED
            self._look(path)
        elif self.by_armed is (change is WatchEvent.ARMED):
            assert path == self.path
            self._look(*self._scope)

    def refused(self, error: BaseException, /) -> None:
        assert isinstance(error, errors.Unimplemented)
        self._model.leave(self)

    def _look(self, *paths: str) -> None:
        for path in paths:
            body = messages.encode_exists(path, False)
            self._model.machine.submit(Request(messages.EXISTS, body, path, Look(self, path)))

    def learnt(self, path: str, result: Any, error: BaseException | None) -> None:
        """The answer to a read."""
        if self.gone:
            return
        if isinstance(error, errors.ConnectionLoss):
            self._look(path)
        elif isinstance(error, errors.NoNode):
            self.known[path] = None
        elif error is not None:
            raise error
        else:
            self.known[path] = (result.czxid, result.mzxid, *self._of_children(result.pzxid))

    def check(self) -> None:
        """Check it at rest."""
        actual: dict[str, State] = dict.fromkeys(self._scope)
        for path in self._scope:
            if (node := self._model.core.tree.find(path)) is not None:
                actual[path] = (node.czxid, node.mzxid, *self._of_children(node.pzxid))
        assert self.known == actual, f"{self} was not told"

    def _of_children(self, pzxid: int) -> tuple[int, ...]:
        return (pzxid,) if self.kind is WatchKind.PERSISTENT else ()

    def __repr__(self) -> str:
        return f"<{self.kind.value} of {self.path}, by {'ARMED' if self.by_armed else 'UNKNOWN'}>"


class Look:
    """Waits for the state of one node."""

    def __init__(self, who: Persistent, path: str) -> None:
        self._who, self._path = who, path

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self._who.learnt(self._path, result, None)

    def set_exception(self, error: BaseException, /) -> None:
        self._who.learnt(self._path, None, error)


Watcher = OneShot | Persistent


class Model(RuleBasedStateMachine):
    """The watches of one session, and the events that they may meet."""

    @initialize(
        version=st.sampled_from(["3.8", "3.9"]),
        spots=st.lists(st.sampled_from(PATHS), min_size=1, max_size=2),
        faulty=st.booleans(),
    )
    def start(self, version: Literal["3.8", "3.9"], spots: list[str], faulty: bool) -> None:
        """All watchers of one run are at one or two paths, since most defects need several at one path. In
        half of the runs nothing breaks, since a reconnect repairs whatever was missed before."""
        self.faulty = faulty
        self.spots = [spots[0], spots[-1]]
        self.core = ZooKeeper(Config(version=version, seed=1), now=NOW, wall=1e9)
        self.machine = Machine(T)
        self.watchers: list[Watcher] = []
        self.refusals = 0
        """How many requests for persistent watches are still to be refused."""
        self.writer = Connection(self.core)
        self.writer.link.received(NOW, messages.encode_connect(0, T, 0, bytes(16), False))
        for path in PATHS[1:]:
            self.change(path, "set")
        self.connection: Connection | None = None
        self.rest()

    # Other clients

    @rule(path=st.sampled_from(PATHS), how=HOW)
    def change_in_between(self, path: str, how: str) -> None:
        """Another client changes a node, whatever is in transit."""
        self.change(path, how)

    @rule(path=st.sampled_from(PATHS), how=HOW)
    def change_at_rest(self, path: str, how: str) -> None:
        """Another client changes a node while the system is at rest; then all watchers must be notified."""
        self.rest()
        self.look()
        self.rest()
        self.change(path, how)
        self.rest()

    def change(self, path: str, how: str) -> None:
        """Set a node; delete it with its subtree; or do that and create it again."""
        below = path if path == "/" else path + "/"
        if how == "set" and self.core.tree.find(path) is not None:
            self._write(messages.SET, messages.encode_set(path, b"new", -1))
        for each in reversed(PATHS[1:]) if how != "set" else ():
            if each == path or each.startswith(below):
                self._write(messages.DELETE, messages.encode_delete(each, -1))
        for each in PATHS[1:] if how != "delete" else ():
            if path == each or path.startswith(each + "/"):
                self._write(messages.CREATE, messages.CREATE.request.encode(each, b"", acl.OPEN, 0))

    def _write(self, op: messages.Operation, body: bytes) -> None:
        self.writer.link.received(NOW, messages.REQUEST_HEADER.pack(0, 1, op.opcode)[4:] + body)

    # The watchers

    @rule(at=st.integers(0, 1), kind=st.sampled_from(WatchKind), how=st.booleans())
    def come(self, at: int, kind: WatchKind, how: bool) -> None:
        path = self.spots[at]
        if kind in (WatchKind.NODE, WatchKind.CHILDREN):
            self.watchers.append(OneShot(self, path, kind, eager=how))
        else:
            self.watchers.append(Persistent(self, path, kind, by_armed=how or kind is WatchKind.PERSISTENT))

    @rule(at=st.integers(0, 1))
    def stand_in_line(self, at: int) -> None:
        self.watchers.append(OneShot(self, self.spots[at], WatchKind.NODE, eager=True, leaves=True))

    @precondition(lambda self: self.watchers)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        self.give_up(data.draw(st.integers(0, len(self.watchers) - 1)))

    def give_up(self, number: int) -> None:
        if number < len(self.watchers):
            self.leave(self.watchers[number])

    def leave(self, watcher: Watcher) -> None:
        self.watchers.remove(watcher)
        watcher.leave()

    @rule()
    def look(self) -> None:
        """The watchers that postponed their reads read now."""
        for watcher in self.watchers:
            if isinstance(watcher, OneShot) and watcher.stale:
                watcher.look()

    # What the connection does

    @rule(served=st.integers(0, 4), heard=st.integers(0, 4))
    def talk(self, served: int, heard: int) -> None:
        """Send what is to be sent. The server receives some of it, and some of its frames arrive."""
        if self.connection is None:
            self.connection = Connection(self.core)
            self.connection.to_server.append(self.machine.connection_made(NOW)[4:])
        connection = self.connection
        connection.to_server.extend(frames_of(b"".join(self.machine.data_to_send(NOW))))
        while served and connection.to_server:
            self._serve(connection.link, connection.to_server.popleft())
            served -= 1
        while heard and connection.to_client and self.connection is connection:
            self._hear(connection.to_client.popleft())
            heard -= 1

    def _serve(self, link: ServerConnection, frame: bytes) -> None:
        if self.refusals and frame[4:8] == messages.ADD_WATCH.opcode.to_bytes(4):
            self.refusals -= 1
            frame = frame[:4] + UNKNOWN_OPCODE.to_bytes(4) + frame[8:]
        link.received(NOW, frame)

    def _hear(self, frame: bytes | None) -> None:
        if frame is None:
            self.cut()
            return
        self.machine.buffer()[: len(frame)] = frame
        self.machine.receive_data(NOW, len(frame))
        if self.machine.close_reason is not None:
            self.cut()

    def cut(self) -> None:
        """The connection breaks, and the frames in transit are lost."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.link.lost(NOW)
            self.machine.connection_lost(NOW, "a rule")

    @precondition(lambda self: self.faulty)
    @rule(what=st.sampled_from(["cut", "expire", "refuse"]))
    def fault(self, what: str) -> None:
        """The connection breaks, or the server ends the session, or it refuses the next request for a
        persistent watch."""
        if what == "cut":
            self.cut()
        elif what == "expire":
            self.core.expire(self.machine.session_id, NOW)
        else:
            self.refusals = 1

    @rule()
    def rest(self) -> None:
        """Deliver everything, until nothing more is sent. Then each watcher knows the current state, or knows
        that it does not."""
        for _ in range(REST):
            self.talk(ALL, ALL)
            connection = self.connection
            if (
                connection is None
                or self.machine.phase is not ConnectionPhase.UP
                or self.machine.has_output()
            ):
                continue
            if not connection.to_server and not connection.to_client:
                break
        else:
            raise AssertionError("it never comes to rest")
        for watcher in self.watchers:
            watcher.check()
        wanted = {watcher.path for watcher in self.watchers}
        watched = {*self.core.watches.data_paths(), *self.core.watches.child_paths()}
        assert watched <= wanted

    def teardown(self) -> None:
        """When all watchers have left, no watch is left."""
        if not hasattr(self, "core"):
            return
        self.rest()
        for watcher in list(self.watchers):
            self.leave(watcher)
        self.rest()
        assert len(self.machine.watches) == 0
        assert self.core.watches.count() == 0


def run(seed: int, steps: int = 30) -> None:
    """Run the model with a random generator. This is many times faster than hypothesis, and so finds more."""
    dice = random.Random(seed)
    model = Model()
    spots = dice.choices(PATHS, k=dice.choice([1, 1, 2]))
    model.start(version=dice.choice(["3.8", "3.9"]), spots=spots, faulty=dice.random() < 0.5)

    def changed() -> dict[str, str]:
        return {"path": dice.choice(PATHS), "how": dice.choice(["set", "delete", "recreate"])}

    for _ in range(steps):
        what = dice.choices(range(8), weights=[25, 3, 15, 10, 15, 4, 20, 8])[0]
        if what == 0:
            model.come(at=dice.randrange(2), kind=dice.choice(list(WatchKind)), how=dice.random() < 0.5)
        elif what == 1:
            model.stand_in_line(at=dice.randrange(2))
        elif what == 2 and model.watchers:
            model.give_up(dice.randrange(len(model.watchers)))
        elif what == 3:
            model.change_in_between(**changed())
        elif what == 4:
            model.change_at_rest(**changed())
        elif what == 5:
            model.look()
        elif what == 6:
            model.talk(served=dice.randrange(5), heard=dice.randrange(5))
        elif what == 7 and model.faulty:
            model.fault(what=dice.choice(["cut", "expire", "refuse"]))
    model.teardown()


@pytest.mark.parametrize("seed", range(8))
def test_by_dice(seed: int) -> None:
    """W3, W5, W7: a hundred runs; see `Model.rest`. To reproduce a failure, call `run(seed)` with the seed
    that it names."""
    for each in range(seed * 100, seed * 100 + 100):
        try:
            run(each)
        except AssertionError as error:
            error.add_note(f"in run({each})")
            raise


class TestModel(Model.TestCase):  # type: ignore[name-defined, misc]
    """W3, W5, W7: see `Model.rest`."""

    settings = settings(
        max_examples=60,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
