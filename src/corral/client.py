"""The client: opening, closing, and the factories of recipes, watches and caches. The operations on znodes
are in `corral.nodes`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from . import errors, verify
from .acl import OPEN
from .codecs import BYTES, Codec
from .ensemble import Ensemble
from .nodes import Nodes
from .paths import locate
from .recipes.assignment import Assign, rendezvous
from .recipes.barrier import Barrier
from .recipes.counter import LAYOUTS, Counter, CounterLayout
from .recipes.discovery.services import Services
from .recipes.double_barrier import DoubleBarrier
from .recipes.election import Election
from .recipes.group import GROUP, Group, GroupLayoutName
from .recipes.kit.context import RecipeContext, SharedByRecipes
from .recipes.kit.node_names import ELECTION, MUTEX, READ_WRITE, LayoutName, layout_named
from .recipes.kit.registration import OnTaken
from .recipes.kit.versioned import NO_DEFAULT
from .recipes.lock import Lock
from .recipes.multi_lock import MultiLock
from .recipes.once import Once
from .recipes.partition import Partition
from .recipes.queue import Queue
from .recipes.registration import Registration
from .recipes.rwlock import RWLock
from .recipes.semaphore import Semaphore
from .recipes.value import Value
from .session import hosts as connect_string
from .session.auth import Credentials
from .session.sasl.choice import mechanism_of
from .session.sasl.digest import DigestMD5
from .session.sasl.kerberos import Kerberos
from .session.session import Options, Session
from .session.state_stream import StateStream
from .session.tls import Tls
from .session.watchers import WatchKind
from .statistics import Statistics
from .types import Acl, ChildrenEvent, Event, State
from .watch.children import ChildrenWatch
from .watch.config import follow_members as follow_members_of
from .watch.existence import ExistenceWatch
from .watch.node import NodeWatch
from .watch.raw import RawWatch
from .watch.shared import Feeds
from .watch.tree.cache import Cache
from .watch.tree.filter import TreeFilter
from .watch.tree.follow import TreeFeed
from .watch.tree.watch import TreeWatch
from .wire import framing

__all__ = ["Client", "connect"]

T = TypeVar("T")

HOSTS_VARIABLE = "CORRAL_HOSTS"
DEFAULT_HOSTS = "localhost:2181"


def connect(
    hosts: str | Sequence[str] | None = None,
    *,
    session_timeout: float = 10.0,
    connect_timeout: float | None = 15.0,
    auth: Sequence[tuple[str, bytes]] = (),
    ssl: bool | SSLContext | Callable[[], SSLContext] = False,
    sasl: DigestMD5 | Kerberos | None = None,
    lease: Literal["quorum", "ping"] = "quorum",
    tick_time: float | None = None,
    max_request: int = framing.DEFAULT_MAX_REQUEST,
    max_reply: int = framing.DEFAULT_MAX_REPLY,
    default_acl: Sequence[Acl] = OPEN,
    follow_members: bool = False,
    read_only: bool | Literal["wait"] = False,
) -> Client:
    """A client for an ensemble: ``async with corral.connect("zk1:2181,zk2:2181/app") as zk:``.

    Entering waits for a session. Leaving closes it, so that the servers delete its ephemerals at once. Before
    entering, nothing is sent.

    - `hosts`: ``"host:port,host:port/chroot"`` or a list of ``"host:port"``; by default ``CORRAL_HOSTS`` from
      the environment, or else ``localhost:2181``. The default port is 2181. The client tries the servers in
      random order. The chroot is a prefix of paths and need not exist: operations that create missing parents
      (``ensure_path("/")``, `make_parents`, locks) create it, too; reads find nothing below it; every other
      operation raises `NoNode`.
    - `session_timeout` (seconds, below 1,000): how long the servers keep the session, and what it holds,
      without hearing from the client. It is also how soon others can take over after a crash. Servers grant
      from twice to twenty times their tick (2 s by default, so 4 s to 40 s); see `Client.session_timeout`.
    - `connect_timeout` (seconds, below 3,600): how long entering waits for a session; None for no limit.
    - `auth`: credentials, such as ``[("digest", b"user:password")]``, sent on each connection. No message,
      repr or log line shows them.
    - `ssl`: TLS, for the servers' ``secureClientPort``. True trusts the system's authorities. An
      ``ssl.SSLContext`` may trust others, and may have a client certificate (``load_cert_chain``), which is
      also an identity of the scheme "x509". A function that returns a context is called for each connection,
      so that certificates can be renewed; if it raises, or returns something else, the attempt to connect has
      failed, and is repeated. The server's certificate must be for the host as `hosts` names it, not for the
      address of that name. See docs/security.md.
    - `sasl`: `DigestMD5` or `Kerberos`, by which client and server prove to each other who they are, on each
      connection, before anything else is sent. It can be used together with `auth`.
    - `lease`: what proves that locks are still held. "quorum" is safe, and costs a logged transaction for
      each client that holds something, six times per session timeout. "ping" costs nothing, but is wrong
      while the connected server follows a deposed leader: then two clients may hold one lock, for up to
      `syncLimit` ticks.
    - `tick_time` (seconds): the servers' tick, if you know it. It makes leases a little longer than the
      default, which assumes the longest possible tick, half the session timeout. Behind an observer that
      serves other observers, pass twice the tick.
    - `max_request` (bytes): the servers' ``jute.maxbuffer``. Larger requests are refused before sending.
    - `max_reply` (bytes): a larger answer fails its own request. Whatever its size, an answer must arrive
      within half the session timeout, or the connection counts as dead.
    - `default_acl`: the access control list of every znode that this client creates without `acl=`: by its
      operations, in transactions, by recipes, and of missing parents. See `corral.acl` for the usual lists. A
      list with `corral.acl.CREATOR_ALL` needs credentials.
    - `follow_members`: whether the client connects to the servers that are members of the ensemble now, as
      ``/zookeeper/config`` tells, and to `hosts` only while none of those answers. Then it survives a fleet
      whose servers are all replaced, one by one. When its server leaves, the session moves to another one as
      soon as what was sent is answered. See docs/ensemble.md.
    - `read_only`: whether a server that has lost its quorum may answer reads, from data that may be old,
      while no other server can be reached (`State.READ_ONLY`; see docs/read_only.md). With True, writes raise
      `NotReadOnly` meanwhile; with "wait" they wait, and do not hold up reads. Entering waits for either kind
      of server.

    Raises `UsageValueError` or `UsageTypeError` at once for a wrong argument. Entering raises
    `ConnectTimeout` or `AuthFailed`. If entering fails or is cancelled, nothing stays behind.
    """
    if hosts is None:
        hosts = os.environ.get(HOSTS_VARIABLE) or DEFAULT_HOSTS
    parsed = connect_string.parse(hosts)
    secured = verify.tls(ssl)
    if lease not in ("quorum", "ping"):
        raise errors.UsageValueError(f"lease must be 'quorum' or 'ping', not {lease!r}")
    options = Options(
        servers=parsed.servers,
        timeout=verify.session_timeout(session_timeout),
        connect_timeout=verify.connect_timeout(connect_timeout),
        credentials=[Credentials(scheme, secret) for scheme, secret in verify.credentials(auth)],
        sasl=mechanism_of(sasl),
        lease_by_ping=lease == "ping",
        tick_time=None if tick_time is None else verify.tick_time(tick_time, session_timeout),
        max_request=verify.size(max_request, "max_request"),
        max_reply=verify.size(max_reply, "max_reply"),
        default_acl=verify.acl(default_acl, "default_acl"),
        tls=None if secured is None else Tls(secured),
        read_only=verify.read_only(read_only),
    )
    for credentials in options.credentials:
        credentials.check_size(options.max_request)
    follow_members = verify.flag(follow_members, "follow_members")
    return Client(Session(options), parsed.chroot, str(parsed), follow_members=follow_members)


class Client(Nodes):
    """A session with an ensemble. Made by `corral.connect`; any number of tasks of one event loop may use it.

    Different tasks may enter and leave it. The client keeps itself connected; `state` tells whether it is.
    The methods below also make recipes, watches and caches; making one does no I/O.

    **On cancel** the wait of an operation ends at once. **On loss** of the connection, requests wait for the
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
        shared: SharedByRecipes | None = None,
        follow_members: bool = False,
    ) -> None:
        super().__init__(session, chroot)
        self._hosts = hosts
        self._feeds = Feeds(session) if feeds is None else feeds
        self._shared = SharedByRecipes(self._feeds) if shared is None else shared
        self._follow_members = follow_members

    async def __aenter__(self) -> Client:
        await self._session.open()
        if self._follow_members:
            self._session.spawn(
                lambda: follow_members_of(self._feeds, secure=self._session.is_secure), "corral members"
            )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._session.close()

    async def close(self) -> None:
        """Close the session, as leaving ``async with`` does. Closing twice does nothing more.

        Takes at most a third of the session timeout, and at most 5 seconds. If no server can be reached, the
        ephemerals stay until the session expires. Operations that still wait raise `ClientClosed`; locks that
        are still held are lost. On cancel the wait ends, and the closing continues in the background. On loss
        of the connection the client connects once more, within the same time.
        """
        await self._session.close()

    def chroot(self, path: str) -> Client:
        """A client for the subtree at `path`. It shares this client's session and its `default_acl`, and ends
        with it.

        `path` need not exist, since a chroot is a prefix of paths. Operations that create missing parents
        create it, too. Reads find nothing below it. Every other operation raises `NoNode`, which names it.
        """
        return Client(
            self._session,
            self._full(path).rstrip("/"),
            self._hosts,
            feeds=self._feeds,
            shared=self._shared,
        )

    # The session

    @property
    def state(self) -> State:
        """The state of the session now."""
        return self._session.state

    def states(self) -> StateStream:
        """The state now, then each change: ``async for state in zk.states():``. Ends with the client."""
        return self._session.states()

    @property
    def session_id(self) -> int:
        """The session's id on the server, as in `Stat.ephemeral_owner`; 0 while there is none."""
        return self._session.session_id

    @property
    def session_timeout(self) -> float:
        """The session timeout in seconds that the server has granted; the requested one until then."""
        return self._session.timeout

    @property
    def server(self) -> str | None:
        """The ``host:port`` of the connected server, a read-only one included, or None."""
        return self._session.server_name

    def statistics(self) -> Statistics:
        """What this client knows of itself now: its session, its load, what it holds and watches. Does no
        I/O."""
        copies = [feed.copy for feed in self._feeds.of(TreeFeed)]
        return self._session.statistics(
            caches=len(copies), cached_znodes=sum(len(copy.nodes) for copy in copies)
        )

    def add_auth(self, scheme: str, secret: bytes) -> None:
        """Authenticate with these credentials, too, such as ``("digest", b"user:password")``, from the next
        operation on. If a server refuses them, the client ends with `AuthFailed`."""
        self._session.add_credentials(Credentials(scheme, secret))

    @property
    def ensemble(self) -> Ensemble:
        """The members of the ensemble: reading, watching and changing them; see `Ensemble`."""
        return Ensemble(self._feeds)

    # Recipes. `data` is visible to the other contenders; `acl` is for the created nodes, missing parents
    # included, and None is the client's default; `layout` selects whose node names are used.

    def lock(
        self,
        path: str,
        *,
        data: bytes = b"",
        acl: Sequence[Acl] | None = None,
        layout: LayoutName = "curator",
    ) -> Lock:
        """An exclusive lock; see `Lock`."""
        return Lock(self._recipe(path, data, acl), layout_named(MUTEX, layout))

    def rwlock(
        self,
        path: str,
        *,
        data: bytes = b"",
        acl: Sequence[Acl] | None = None,
        layout: LayoutName = "curator",
    ) -> RWLock:
        """A read/write lock: ``.read()`` and ``.write()``; see `RWLock`."""
        return RWLock(self._recipe(path, data, acl), layout_named(READ_WRITE, layout))

    def semaphore(
        self, path: str, limit: int, *, data: bytes = b"", acl: Sequence[Acl] | None = None
    ) -> Semaphore:
        """A semaphore with this many leases; see `Semaphore`."""
        return Semaphore(self._recipe(path, data, acl), verify.limit(limit))

    def election(
        self,
        path: str,
        *,
        data: bytes = b"",
        acl: Sequence[Acl] | None = None,
        layout: LayoutName = "curator",
    ) -> Election:
        """A leader election; see `Election`."""
        return Election(self._recipe(path, data, acl), layout_named(ELECTION, layout))

    def multi_lock(
        self,
        paths: Sequence[str],
        *,
        data: bytes = b"",
        acl: Sequence[Acl] | None = None,
        layout: LayoutName = "curator",
    ) -> MultiLock:
        """Exclusive locks on several paths, acquired all or none; see `MultiLock`."""
        contexts = [self._recipe(path, data, acl) for path in verify.several(paths, "paths")]
        verify.distinct([context.full for context in contexts], "paths")
        names = layout_named(MUTEX, layout)
        return MultiLock([(context.full, Lock(context, names)) for context in contexts])

    def registration(
        self,
        path: str,
        data: bytes = b"",
        *,
        on_taken: OnTaken = "wait",
        acl: Sequence[Acl] | None = None,
    ) -> Registration:
        """A znode that exists as long as this client does; see `Registration`. `on_taken` is what entering
        does if somebody else's znode is there: "wait" until it is gone, or "raise" `NodeExists`."""
        return Registration(self._recipe(path, data, acl), verify.on_taken(on_taken))

    def group(
        self, path: str, *, acl: Sequence[Acl] | None = None, layout: GroupLayoutName = "curator"
    ) -> Group:
        """A group of members; see `Group`."""
        return Group(self._recipe(path, b"", acl), layout_named(GROUP, layout))

    def services(self, base: str, *, acl: Sequence[Acl] | None = None) -> Services:
        """Service discovery: the services below a path; see `Services`."""
        return Services(self._recipe(base, b"", acl))

    def barrier(self, path: str, *, data: bytes = b"", acl: Sequence[Acl] | None = None) -> Barrier:
        """A gate that any client may close and open; see `Barrier`."""
        return Barrier(self._recipe(path, data, acl))

    def double_barrier(
        self, path: str, n: int, *, data: bytes = b"", acl: Sequence[Acl] | None = None
    ) -> DoubleBarrier:
        """A rendezvous of `n` members, who enter and leave together; see `DoubleBarrier`."""
        return DoubleBarrier(self._recipe(path, data, acl), verify.limit(n, "n"))

    def once(
        self, path: str, *, ttl: float | None = None, data: bytes = b"", acl: Sequence[Acl] | None = None
    ) -> Once:
        """A job that is run by one client, and whose result the others get; see `Once`. After `ttl` seconds
        the result does not count any more."""
        return Once(self._recipe(path, data, acl), None if ttl is None else verify.seconds(ttl, "ttl"))

    @overload
    def value(self, path: str, *, default: bytes = ..., acl: Sequence[Acl] | None = None) -> Value[bytes]: ...

    @overload
    def value(
        self, path: str, *, codec: Codec[T], default: T = ..., acl: Sequence[Acl] | None = None
    ) -> Value[T]: ...

    def value(
        self,
        path: str,
        *,
        codec: Codec[Any] = BYTES,
        default: Any = NO_DEFAULT,
        acl: Sequence[Acl] | None = None,
    ) -> Value[Any]:
        """A value that many clients read, watch and change; see `Value`. `codec` encodes it as the znode's
        data: `BYTES`, `TEXT`, `JSON`, or any object with `encode` and `decode`. `default` is the value while
        the znode does not exist; without it, reading that raises `NoNode`."""
        return Value(self._recipe(path, b"", acl), verify.codec(codec), default)

    def counter(
        self, path: str, *, layout: CounterLayout = "curator", acl: Sequence[Acl] | None = None
    ) -> Counter:
        """A number that many clients add to; see `Counter`, also for the layouts."""
        verify.counter_layout(layout, LAYOUTS)
        return Counter(self._recipe(path, b"", acl), layout)

    def queue(self, path: str, *, max_attempts: int | None = None, acl: Sequence[Acl] | None = None) -> Queue:
        """A queue of items for consumers; see `Queue`. An item that was handed out `max_attempts` times and
        not done is put aside; with None it is handed out until it is done."""
        return Queue(self._recipe(path, b"", acl), verify.max_attempts(max_attempts))

    def partition(
        self,
        path: str,
        items: Iterable[T],
        *,
        data: bytes = b"",
        settle: float = 1.0,
        assign: Assign[T] = rendezvous,
        acl: Sequence[Acl] | None = None,
    ) -> Partition[T]:
        """Items that are shared out among members; see `Partition`. `items`: str, int, or whatever has a
        ``str()`` of its own that is the same in all processes. `settle` (seconds): how long the members must
        not have changed before items move. `assign(items, members)` returns the items of each member."""
        context = self._recipe(path, data, acl)
        return Partition(context, items, verify.settle(settle), verify.predicate(assign, "assign"))

    def _recipe(self, path: str, data: bytes, acl: Sequence[Acl] | None) -> RecipeContext:
        full, named = locate(self._chroot, path)
        return RecipeContext(
            self._session, self._chroot, full, named, self._shared, verify.data(data), self._acl(acl)
        )

    # Watches and caches

    def watch(self, path: str) -> NodeWatch:
        """The states of one znode as an async iterator; see `NodeWatch`."""
        return NodeWatch(self._feeds, self._full(path), path)

    def watch_children(self, path: str) -> ChildrenWatch:
        """The names of a znode's children as an async iterator; see `ChildrenWatch`."""
        return ChildrenWatch(self._feeds, self._full(path), path)

    def watch_tree(
        self, path: str, *, depth: int | None = None, only: Callable[[str], bool] | None = None
    ) -> TreeWatch:
        """The states of a znode and of everything below it as an async iterator; see `TreeWatch`.

        `depth`: the number of levels below `path`; 0 for the znode itself, 1 for its children, too, None for
        all. `only`: a function that takes a path and returns whether to include it; what it excludes is left
        out with everything below. The znode at `path` is always included. Pass the same function again to
        share one copy.
        """
        return TreeWatch(self._feeds, self._full(path), path, self._chroot, self._filter(path, depth, only))

    def watch_raw(self, path: str, *, recursive: bool = False) -> RawWatch:
        """A znode's events as the server sends them; see `RawWatch`."""
        kind = WatchKind.RECURSIVE if recursive else WatchKind.PERSISTENT
        return RawWatch(self._feeds, self._full(path), path, self._chroot, kind)

    def cache(
        self, path: str, *, depth: int | None = None, only: Callable[[str], bool] | None = None
    ) -> Cache:
        """A live local copy of a subtree: ``async with zk.cache(path) as cache:``; see `Cache`. `depth` and
        `only` are as for `watch_tree`."""
        return Cache(self._feeds, self._full(path), path, self._chroot, self._filter(path, depth, only))

    def _filter(self, path: str, depth: int | None, only: Callable[[str], bool] | None) -> TreeFilter:
        chroot = self._chroot if only is not None else ""  # only `only` takes paths below the chroot
        if only is not None:
            verify.predicate(only, "only")
        return TreeFilter(self._full(path), verify.depth(depth), only, chroot)

    async def wait_until(self, path: str, condition: Callable[[Event], object]) -> Event:
        """Wait until the state of a znode satisfies `condition`, and return it; at once if it does now.

        `condition` is called with each `Event` of `watch`. A state that lasts is never missed; one that ends
        before it could be read can be. An exception of `condition` is raised here.

        The wait has no limit: bound it with `asyncio.timeout`. **On cancel** nothing stays behind, here or on
        the server. **On loss** of the connection it continues, across reconnects and new sessions. It raises
        what `NodeWatch` does: `NoAuth` if we may not read the znode, `ConnectionLoss` if
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on its read, and `SessionError` when the
        client is closed or a server refuses our credentials.
        """
        verify.predicate(condition, "condition")
        async with self.watch(path) as events:
            async for event in events:
                if condition(event):
                    return event
        raise AssertionError("unreachable: a watch does not end by itself")

    async def wait_present(self, path: str) -> Event:
        """Wait until a znode exists, and return its state; at once if it exists now.

        It needs no permission on the znode. Where the ACL does not grant READ, the event's `data` is None,
        and the fields of its `stat` are all -1 on servers that hide it (3.8.4, 3.9.2 and later).

        The wait has no limit: bound it with `asyncio.timeout`. **On cancel** nothing stays behind. **On
        loss** of the connection it continues. While it waits it also polls, at intervals that grow from 0.1 s
        to the session timeout, since servers with the fix for CVE-2024-23944 (3.8.4, 3.9.2) send no events of
        a znode that we may not read: such a znode can be noticed that late. Raises what `wait_until` does,
        except `NoAuth`.
        """
        return await self._wait_existence(path, present=True)

    async def wait_absent(self, path: str) -> None:
        """Wait until a znode does not exist; return at once if it does not exist now.

        It needs no permission on the znode, and does not read its data. The wait has no limit: bound it with
        `asyncio.timeout`. **On cancel** nothing stays behind. **On loss** of the connection it continues. It
        polls, and raises, as `wait_present` does.
        """
        await self._wait_existence(path, present=False)

    async def _wait_existence(self, path: str, *, present: bool) -> Event:
        async with ExistenceWatch(self._feeds, self._full(path), path, reads_data=present) as events:
            async for event in events:
                if event.exists is present:
                    return event
        raise AssertionError("unreachable: a watch does not end by itself")

    async def wait_children(
        self, path: str, condition: int | Callable[[ChildrenEvent], object]
    ) -> ChildrenEvent:
        """Wait until a znode has at least `condition` children, or until they satisfy it, if it is a
        function. Returns the children; at once if the condition is met now.

        A znode that does not exist has no children. A function is called with each `ChildrenEvent` of
        `watch_children`; an exception of it is raised here. The wait has no limit: bound it with
        `asyncio.timeout`. **On cancel** nothing stays behind. **On loss** of the connection it continues. It
        raises what `ChildrenWatch` does, as listed for `wait_until`.
        """
        enough = verify.number_or_predicate(condition, "condition")
        async with self.watch_children(path) as events:
            async for event in events:
                if enough(event) if callable(enough) else len(event.children) >= enough:
                    return event
        raise AssertionError("unreachable: a watch does not end by itself")

    def __repr__(self) -> str:
        below = f" below {self._chroot!r}" if self._chroot else ""
        session = f", session 0x{self.session_id:x}" if self.session_id else ""
        return f"<Client of {self._hosts}{below}, {self.state.value}{session}>"
