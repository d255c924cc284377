"""The client: opening and closing, and what it makes. What it does to znodes is in `corral.nodes`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal

from . import errors, verify
from .nodes import Nodes
from .recipes.election import Election
from .recipes.holders import Holders
from .recipes.layouts import ELECTION, MUTEX, READ_WRITE, LayoutName, choose
from .recipes.lock import Lock
from .recipes.multi import MultiLock
from .recipes.rwlock import RWLock
from .recipes.semaphore import Semaphore
from .recipes.site import Site
from .session import hosts as connect_string
from .session.auth import Credentials
from .session.state_stream import StateStream
from .session.supervisor import Options, Session
from .session.watches import Kind
from .types import OPEN_ACL, Acl, ChildrenEvent, Event, State
from .watch.children import ChildrenWatch
from .watch.existence import ExistenceWatch
from .watch.node import NodeWatch
from .watch.raw import RawWatch
from .watch.shared import Feeds
from .watch.tree.cache import Cache
from .watch.tree.filter import TreeFilter
from .watch.tree.watch import TreeWatch
from .wire import framing

__all__ = ["Client", "connect"]

HOSTS_VARIABLE = "CORRAL_HOSTS"
DEFAULT_HOSTS = "localhost:2181"


def connect(
    hosts: str | Sequence[str] | None = None,
    *,
    session_timeout: float = 10.0,
    connect_timeout: float | None = 15.0,
    auth: Sequence[tuple[str, bytes]] = (),
    lease: Literal["quorum", "ping"] = "quorum",
    tick_time: float | None = None,
    max_request: int = framing.DEFAULT_MAX_REQUEST,
    max_reply: int = framing.DEFAULT_MAX_REPLY,
) -> Client:
    """A client for an ensemble: ``async with corral.connect("zk1:2181,zk2:2181/app") as zk:``.

    Entering waits for a session; leaving closes it, so that its ephemerals are deleted at once. Nothing is
    sent, and no error of the network raised, before that.

    - `hosts`: ``"host:port,host:port/chroot"`` or a list of ``"host:port"``; else ``CORRAL_HOSTS`` from
      the environment, else ``localhost:2181``. The port is 2181 if left out. The servers are tried in random
      order. A chroot is a prefix of paths, which need not exist: what makes missing parents makes it, too
      (``ensure_path("/")``, `make_parents`, locks); reads find nothing below it; all else raises `NoNode`.
    - `session_timeout` (seconds, below 1,000): how long the servers keep the session, and what it holds,
      without hearing from us. It is also how soon others can take over after a crash. Servers grant from
      twice to twenty times their tick (2 s by default, so 4 s to 40 s); see `Client.session_timeout`.
    - `connect_timeout` (seconds, below 3,600): how long entering waits for a session; None for ever.
    - `auth`: credentials, such as ``[("digest", b"user:password")]``, sent on each connection. No message,
      repr or log line shows them.
    - `lease`: what proves that something is still held. "quorum" is safe and costs a logged transaction for
      each client that holds something, six times per session timeout. "ping" costs nothing and is wrong
      when our server follows a leader that was deposed: two may hold then, for up to `syncLimit` ticks.
    - `tick_time` (seconds): the servers' tick, if you know it. Leases are a little longer then than with the
      most it can be, half the session timeout. Behind an observer that serves observers: twice the tick.
    - `max_request` (bytes): the servers' ``jute.maxbuffer``. Larger requests are refused before sending.
    - `max_reply` (bytes): answers over that fail their own request. However large, an answer has to arrive
      within half the session timeout, or the connection counts as dead.

    Raises `UsageValueError` or `UsageTypeError` at once for what cannot be right. Entering raises
    `ConnectTimeout` or `AuthFailed`, and leaves nothing behind, as it does when it is cancelled.
    """
    if hosts is None:
        hosts = os.environ.get(HOSTS_VARIABLE) or DEFAULT_HOSTS
    parsed = connect_string.parse(hosts)
    if lease not in ("quorum", "ping"):
        raise errors.UsageValueError(f"lease must be 'quorum' or 'ping', not {lease!r}")
    options = Options(
        servers=parsed.servers,
        timeout=verify.session_timeout(session_timeout),
        connect_timeout=verify.connect_timeout(connect_timeout),
        credentials=[Credentials(scheme, secret) for scheme, secret in verify.credentials(auth)],
        lease_by_ping=lease == "ping",
        tick_time=None if tick_time is None else verify.tick_time(tick_time, session_timeout),
        max_request=verify.size(max_request, "max_request"),
        max_reply=verify.size(max_reply, "max_reply"),
    )
    for credentials in options.credentials:
        credentials.check_size(options.max_request)
    return Client(Session(options), parsed.chroot, str(parsed))


class Client(Nodes):
    """A session with an ensemble. Made by `corral.connect`; used by any number of tasks of one event loop.

    Entering and leaving may be in different tasks. The client keeps itself connected; `state` says whether it
    is. Recipes are made by the methods below, and making one does no I/O.

    **On cancel** the wait of an operation ends at once. **On loss** of the connection requests wait for the
    next connection, reads are sent again, and a write that was sent raises `ConnectionLoss`. See
    `corral.connect` for entering, and `Transaction`, `Lock` and the other recipes for what they add.
    """

    def __init__(
        self,
        session: Session,
        chroot: str,
        hosts: str,
        *,
        feeds: Feeds | None = None,
        holders: Holders | None = None,
    ) -> None:
        super().__init__(session, chroot)
        self._hosts = hosts
        self._feeds = Feeds(session) if feeds is None else feeds
        self._holders = Holders() if holders is None else holders

    async def __aenter__(self) -> Client:
        await self._session.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._session.close()

    async def close(self) -> None:
        """Close the session and all that depends on it, as leaving ``async with`` does; twice does no harm.

        Takes at most a third of the session timeout, and at most 5 seconds: if no server can be reached, the
        ephemerals stay until the session expires. Operations that still wait raise `ClientClosed`; locks that
        are still held are lost. On cancel the wait ends and the closing goes on. On loss of the connection it
        connects once more, within the same time.
        """
        await self._session.close()

    def chroot(self, path: str) -> Client:
        """A client for the subtree at `path`, which shares this one's session and ends with it.

        A chroot is a prefix of paths: `path` need not exist. Whatever makes missing parents makes it, too;
        reads find nothing below it; every other operation raises `NoNode`, which names it.
        """
        return Client(
            self._session,
            self._full(path).rstrip("/"),
            self._hosts,
            feeds=self._feeds,
            holders=self._holders,
        )

    # The session

    @property
    def state(self) -> State:
        """Where the session stands now."""
        return self._session.state

    def states(self) -> StateStream:
        """The state now, then each change: ``async for state in zk.states():``. Ends when the client does."""
        return self._session.states()

    @property
    def session_id(self) -> int:
        """The session's id on the server, as in `Stat.ephemeral_owner`; 0 while there is none."""
        return self._session.session_id

    @property
    def session_timeout(self) -> float:
        """The session timeout in seconds that the server has granted; as asked for until then."""
        return self._session.timeout

    @property
    def server(self) -> str | None:
        """The ``host:port`` that is connected, or None."""
        address = self._session.server
        return None if address is None else str(address)

    def add_auth(self, scheme: str, secret: bytes) -> None:
        """Authenticate with these credentials too, such as ``("digest", b"user:password")``, from the next
        operation on. If a server refuses them the client ends with `AuthFailed`."""
        self._session.add_credentials(Credentials(scheme, secret))

    # What it makes

    # Of all that stands in line: `data` is what others see of us there; `acl` is that of the nodes that it
    # makes, missing parents included; `layout` is whose names they have.

    def lock(
        self,
        path: str,
        *,
        data: bytes = b"",
        acl: Sequence[Acl] = OPEN_ACL,
        layout: LayoutName = "curator",
    ) -> Lock:
        """An exclusive lock; see `Lock`."""
        return Lock(self._site(path, data, acl), choose(MUTEX, layout))

    def rwlock(
        self,
        path: str,
        *,
        data: bytes = b"",
        acl: Sequence[Acl] = OPEN_ACL,
        layout: LayoutName = "curator",
    ) -> RWLock:
        """A read/write lock: ``.read()`` and ``.write()``; see `RWLock`."""
        return RWLock(self._site(path, data, acl), choose(READ_WRITE, layout))

    def semaphore(
        self, path: str, limit: int, *, data: bytes = b"", acl: Sequence[Acl] = OPEN_ACL
    ) -> Semaphore:
        """A semaphore with this many leases; see `Semaphore`."""
        return Semaphore(self._site(path, data, acl), verify.limit(limit))

    def election(
        self,
        path: str,
        *,
        data: bytes = b"",
        acl: Sequence[Acl] = OPEN_ACL,
        layout: LayoutName = "curator",
    ) -> Election:
        """A leader election; see `Election`."""
        return Election(self._site(path, data, acl), choose(ELECTION, layout))

    def multi_lock(
        self,
        paths: Sequence[str],
        *,
        data: bytes = b"",
        acl: Sequence[Acl] = OPEN_ACL,
        layout: LayoutName = "curator",
    ) -> MultiLock:
        """Exclusive locks on several paths, all or none; see `MultiLock`."""
        sites = [self._site(path, data, acl) for path in verify.several(paths, "paths")]
        verify.distinct([site.full for site in sites], "paths")
        return MultiLock([(site.full, Lock(site, choose(MUTEX, layout))) for site in sites])

    def _site(self, path: str, data: bytes, acl: Sequence[Acl]) -> Site:
        entries = OPEN_ACL if acl is OPEN_ACL else verify.acl(acl)
        return Site(self, self._session, self._full(path), path, self._holders, verify.data(data), entries)

    # Watches and caches: making one does no I/O.

    def watch(self, path: str) -> NodeWatch:
        """The states of one znode as an async iterator; see `NodeWatch`."""
        return NodeWatch(self._feeds, self._full(path), path)

    def watch_children(self, path: str) -> ChildrenWatch:
        """Which children a znode has, as an async iterator; see `ChildrenWatch`."""
        return ChildrenWatch(self._feeds, self._full(path), path)

    def watch_tree(
        self, path: str, *, depth: int | None = None, only: Callable[[str], bool] | None = None
    ) -> TreeWatch:
        """The states of a znode and of all below it as an async iterator; see `TreeWatch`.

        `depth`: how many levels below `path`; 0 for the znode itself, 1 for its children too, None for all.
        `only`: given a path, says whether it is wanted; what is not is left out with all that is below it.
        The znode at `path` itself is always wanted. Pass the same function again to share one copy.
        """
        return TreeWatch(self._feeds, self._full(path), path, self._chroot, self._filter(path, depth, only))

    def watch_raw(self, path: str, *, recursive: bool = False) -> RawWatch:
        """A znode's events as the server sends them; see `RawWatch`."""
        kind = Kind.RECURSIVE if recursive else Kind.PERSISTENT
        return RawWatch(self._feeds, self._full(path), path, self._chroot, kind)

    def cache(
        self, path: str, *, depth: int | None = None, only: Callable[[str], bool] | None = None
    ) -> Cache:
        """A live local copy of a subtree: ``async with zk.cache(path) as cache:``; see `Cache`. `depth` and
        `only` are as for `watch_tree`."""
        return Cache(self._feeds, self._full(path), path, self._chroot, self._filter(path, depth, only))

    def _filter(self, path: str, depth: int | None, only: Callable[[str], bool] | None) -> TreeFilter:
        chroot = self._chroot if only is not None else ""  # nobody else asks for it
        if only is not None:
            verify.predicate(only, "only")
        return TreeFilter(self._full(path), verify.depth(depth), only, chroot)

    async def wait_until(self, path: str, condition: Callable[[Event], object]) -> Event:
        """Wait for a state of a znode that satisfies `condition`, and return it; at once if it is so now.

        `condition` is called with each `Event` of `watch`. A state that lasts is never missed; one that is
        over before it could be read may be. What `condition` raises is raised here.

        There is no limit of time: bound it with `asyncio.timeout`. **On cancel** nothing is left, here or on
        the server. **On loss** of the connection it goes on waiting, over reconnects and new sessions. It
        raises what `NodeWatch` does: `NoAuth` if we may not read the znode, `ConnectionLoss` if
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on its read, `SessionError` when the client is
        closed or a server refuses our credentials.
        """
        verify.predicate(condition, "condition")
        async with self.watch(path) as events:
            async for event in events:
                if condition(event):
                    return event
        raise AssertionError("a watch does not end by itself")

    async def wait_present(self, path: str) -> Event:
        """Wait until there is such a znode, and return its state; at once if there is one now.

        It needs no permission on the znode. Where the ACL does not let us read it, the event's `data` is None
        and its `stat` is there.

        There is no limit of time: bound it with `asyncio.timeout`. **On cancel** nothing is left. **On loss**
        of the connection it goes on waiting. While it waits it looks again, at intervals that grow from 0.1 s
        to the session timeout, since servers with the fix for CVE-2024-23944 (3.8.4, 3.9.2) tell nothing of a
        znode that we may not read: of such a one it may learn that late. Raises what `wait_until` does, but
        for `NoAuth`.
        """
        return await self._wait_existence(path, present=True)

    async def wait_absent(self, path: str) -> None:
        """Wait until there is no such znode; returns at once if there is none now.

        It needs no permission on the znode, and does not read its data. There is no limit of time: bound it
        with `asyncio.timeout`. **On cancel** nothing is left. **On loss** of the connection it goes on
        waiting. While it waits it looks again up to each session timeout, as `wait_present` does. Raises what
        that does.
        """
        await self._wait_existence(path, present=False)

    async def _wait_existence(self, path: str, *, present: bool) -> Event:
        async with ExistenceWatch(self._feeds, self._full(path), path, reads_data=present) as events:
            async for event in events:
                if event.exists is present:
                    return event
        raise AssertionError("a watch does not end by itself")

    async def wait_children(
        self, path: str, condition: int | Callable[[ChildrenEvent], object]
    ) -> ChildrenEvent:
        """Wait until a znode has that many children or more, or until they satisfy `condition`; returns which
        there are, at once if it is so now.

        A znode that does not exist has none. `condition` is called with each `ChildrenEvent` of
        `watch_children`; what it raises is raised here. There is no limit of time: bound it with
        `asyncio.timeout`. **On cancel** nothing is left. **On loss** of the connection it goes on waiting. It
        raises what `ChildrenWatch` does, as `wait_until` has it.
        """
        enough = verify.number_or_predicate(condition, "condition")
        async with self.watch_children(path) as events:
            async for event in events:
                if enough(event) if callable(enough) else len(event.children) >= enough:
                    return event
        raise AssertionError("a watch does not end by itself")

    def __repr__(self) -> str:
        below = f" below {self._chroot!r}" if self._chroot else ""
        session = f", session 0x{self.session_id:x}" if self.session_id else ""
        return f"<Client of {self._hosts}{below}, {self.state.value}{session}>"
