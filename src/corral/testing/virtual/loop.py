"""An event loop with virtual time and an in-memory network: an hour passes at once.

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())  # in it, asyncio.sleep(3600) takes 3600 s by loop.time(), and no real time

Any asyncio code runs on it unchanged: a client, a server and a proxy between them use asyncio's own
transports, on sockets in memory instead of the operating system's. Two runs with the same seed are identical.

The rules of its time:

1. Time does not pass while something runs or is ready to run; only `VirtualLoop.block` advances it. A task
that
   polls with ``asyncio.sleep(0)`` for something that takes time therefore polls for ever.
2. When nothing is ready, time jumps to the next timer, or to the next arrival on the network.
3. Time stands still while something real is pending, which the loop cannot foresee: a job in an executor
   (`run_in_executor`, `asyncio.to_thread`); a real file descriptor (a pipe of a subprocess, `add_reader`);
   or, inside `VirtualLoop.awaiting_threads`, a call from any thread. The loop then waits like any other
   loop. A job thus takes no virtual time. A job that waits for virtual time to pass waits for ever.
4. When nothing is ready, no timer is set, nothing is in transit and nothing real is pending, nothing can ever
   happen again: the loop raises `Deadlock`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import logging
import math
import random
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, NoReturn, TypeVar

from corral.errors import CorralError, UsageValueError

from .memory_network import FIRST_DESCRIPTOR, MemoryNetwork, MemorySocket, SockAddr, sock_addr

__all__ = ["Deadlock", "VirtualLoop"]

logger = logging.getLogger("corral.testing")

T = TypeVar("T")

_START = 1000.0
"""The default start. It is not 0, to expose code that takes 0 for "never" or "long ago"."""

_REMINDER = 10.0
"""Real seconds after which the loop logs that it still waits for something real."""

_NO_REAL_NETWORK = (
    "VirtualLoop has no real network: connect and listen by host and port, with create_connection, "
    "create_server or asyncio's streams, which are in memory; for a real server use another loop"
)

_LOCALHOST = ("127.0.0.1", "::1")


class Deadlock(CorralError):
    """Nothing can ever happen again in a `VirtualLoop`: every task waits for something that cannot occur.

    The message names the tasks. A real loop would hang here. The loop still works: `asyncio.Runner` cancels
    the tasks and closes it as usual.
    """


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time and a network in memory. See the module's documentation."""

    virtual: Final = True
    """Marks the loop for code that has to take its clock from `time`."""

    _closed = True  # until `super().__init__`, so that a refused argument leaves no loop open
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float
    _selector: _Selector

    def __init__(
        self,
        *,
        start: float = _START,
        seed: int = 0,
        latency: float | tuple[float, float] = 0.0,
        fragment: int | None = None,
    ) -> None:
        """`start` is the first `time`, in seconds. `seed` determines everything random.

        `latency` is how many seconds each segment is in transit; with a pair (least, most), a random number
        between them. With `fragment`, each read gets a random number of bytes from 1 to that many, instead of
        everything that has arrived: TCP may split a stream anywhere.
        """
        least, most = latency if isinstance(latency, tuple) else (latency, latency)
        if not 0 <= least <= most < math.inf:
            raise UsageValueError(f"latency={latency!r}: give seconds, 0 or more, or a pair (least, most)")
        if fragment is not None and fragment < 1:
            raise UsageValueError(
                f"fragment={fragment!r}: a read gets at least 1 byte; use None for no limit"
            )
        self.rng = random.Random(seed)
        """The source of everything random; a test may use it for its own random choices."""
        self.hosts: dict[str, str | Sequence[str]] = {"localhost": _LOCALHOST}
        """The address of each host name, or several in order. Any other host must be an IP address."""
        self._network = MemoryNetwork(
            self.time,
            lambda: self.rng.uniform(least, most) if least < most else least,
            lambda size: size if fragment is None else min(size, self.rng.randint(1, fragment)),
        )
        self._real_jobs: set[asyncio.Future[Any]] = set()
        self._threads_awaited = 0
        self._until_blocked: list[asyncio.Future[None]] = []
        super().__init__(_Selector(self._network, self._idle))
        self._move_to(start)

    # Time

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def block(self, seconds: float) -> None:
        """Let time pass while nothing else runs, as when code blocks the loop, or the machine is suspended.

        Afterwards the loop handles everything that has happened meanwhile, in asyncio's order: first what has
        arrived on the network, then the timers that are due.
        """
        if not 0 <= seconds < math.inf:
            raise UsageValueError(f"block({seconds!r}): time only goes forward; give seconds, 0 or more")
        self._move_to(self._now + seconds)

    async def wait_all_tasks_blocked(self) -> None:
        """Wait until no task can run any more unless time passes.

        It waits for jobs in executors, but not for segments in transit with a latency. Cancelling it is safe.
        """
        waiter = self.create_future()
        self._until_blocked.append(waiter)
        await waiter

    @contextlib.contextmanager
    def awaiting_threads(self) -> Iterator[None]:
        """In the block, time stands still when nothing is ready, because a thread is going to call the loop.

        For threads of your own (and of anyio) that use `call_soon_threadsafe` or
        `asyncio.run_coroutine_threadsafe`. The block may be entered in any thread.
        """
        self._threads_awaited += 1
        try:
            yield
        finally:
            self._threads_awaited -= 1

    def _move_to(self, now: float) -> None:
        self._now = now
        # asyncio runs timers that are due within its clock's resolution. Here no timer may run early, not
        # even by a nanosecond: its callback would set it again, while time stands still. And the resolution
        # must not vanish in rounding when the time is large, since then a due timer would never run.
        self._clock_resolution = math.ulp(now)

    def _idle(self) -> None:
        """Called when nothing is ready: wait for something real, or advance time."""
        if self._real_jobs or self._threads_awaited or self._selector.watches_real:
            if not self._selector.wait_really(_REMINDER):
                logger.warning(
                    "for %g s a VirtualLoop has waited for something real, and its time stands still: "
                    "%d jobs in executors, another thread, or a file descriptor",
                    _REMINDER,
                    len(self._real_jobs),
                )
        elif self._until_blocked:
            for waiter in self._until_blocked:
                if not waiter.done():
                    waiter.set_result(None)
            self._until_blocked.clear()
        else:
            timer = self._scheduled[0].when() if self._scheduled else math.inf
            due = min(timer, self._network.next_arrival())
            if due == math.inf:
                raise Deadlock(self._describe_deadlock())
            self._move_to(due)

    def _describe_deadlock(self) -> str:
        waiting = sorted(map(repr, asyncio.all_tasks(self)))
        return (
            f"nothing can ever happen again in this loop, at {self._now} s: nothing is ready, no timer is "
            f"set, nothing is in transit. These tasks wait: {', '.join(waiting) or 'none'}. If a thread of "
            "yours was to wake one, wait for it inside loop.awaiting_threads()"
        )

    # Threads

    def run_in_executor(  # type: ignore[override]  # typeshed spells the generics differently
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in asyncio. Time stands still until the job is done, or nothing awaits it any more."""
        job = super().run_in_executor(executor, func, *args)
        self._real_jobs.add(job)
        job.add_done_callback(self._real_jobs.discard)
        return job

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """As in asyncio. Its timeout has no effect, since time stands still."""
        with self.awaiting_threads():  # asyncio waits for a thread of its own here
            await super().shutdown_default_executor(*args, **kwargs)

    # The network

    async def getaddrinfo(  # type: ignore[override]
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, SockAddr]]:
        """Look a host name up in `hosts`, or parse an address. It does not wait."""
        if host is None:
            names: str | Sequence[str] = ("0.0.0.0", "::") if flags & socket.AI_PASSIVE else _LOCALHOST
        else:
            names = self.hosts.get(host, host)
        found = []
        for name in (names,) if isinstance(names, str) else names:
            try:
                address = ipaddress.ip_address(name)
            except ValueError:
                continue
            version = socket.AF_INET if address.version == 4 else socket.AF_INET6
            if family in (socket.AF_UNSPEC, version):
                at = sock_addr(version, str(address), int(port or 0))
                found.append((version, socket.SOCK_STREAM, int(socket.IPPROTO_TCP), "", at))
        if not found:
            raise socket.gaierror(
                socket.EAI_NONAME, f"{host!r} is not known in this VirtualLoop; add it to loop.hosts"
            )
        return found

    async def create_connection(self, *args: Any, sock: None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in asyncio, in memory, to any address where this loop has a server. Cancelling it is safe."""
        if sock is not None:
            raise NotImplementedError(_NO_REAL_NETWORK)
        return await super().create_connection(*args, **kwargs)

    async def _connect_sock(
        self, exceptions: list[list[OSError]], addr_info: Any, local_addr_infos: Any = None
    ) -> MemorySocket:
        # `create_connection` calls this for each attempt. (If asyncio renamed it, `sock_connect` would be
        # called, and raise.) The handshake takes a round trip; then both ends know of the connection.
        family, _, _, _, address = addr_info
        sources = (info[4] for info in local_addr_infos or () if info[0] == family)
        await asyncio.sleep(self._network.latency() + self._network.latency())
        try:
            sock = self._network.connect(family, address, next(sources, None))
        except OSError as error:
            exceptions.append([error])
            raise
        try:
            # asyncio needs that many turns to notice that a real socket is connected. If the client continued
            # before the server has accepted, it could close the server first, a race that asyncio gets wrong.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except BaseException:
            sock.close()
            raise
        return sock

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Iterable[str] | None = None,
        port: int | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: None = None,
        **kwargs: Any,
    ) -> asyncio.Server:
        """As in asyncio, in memory, at any address. Cancelling it is safe.

        A server with several addresses has one socket and one port for all of them. The backlog is unbounded.
        """
        if sock is not None:
            raise NotImplementedError(_NO_REAL_NETWORK)
        hosts = [host or None] if host is None or isinstance(host, str) else host
        infos = [
            info for each in hosts for info in await self.getaddrinfo(each, port, family=family, flags=flags)
        ]
        listener: Any = self._network.bind([(info[0], info[4]) for info in infos])
        try:
            return await super().create_server(protocol_factory, sock=listener, **kwargs)
        except BaseException:
            listener.close()
            raise

    async def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(_NO_REAL_NETWORK)

    sock_connect = sock_accept = sock_sendfile = _refuse
    sock_recv = sock_recv_into = sock_recvfrom = sock_recvfrom_into = _refuse
    sock_sendall = sock_sendto = _refuse
    create_datagram_endpoint = _refuse
    create_unix_connection = create_unix_server = _refuse

    def close(self) -> None:
        """Close the loop, and forget its connections."""
        super().close()
        self._network.close()


class _Selector(selectors.BaseSelector):
    """A selector of descriptors in memory, and of real ones, such as the pipe by which threads wake the
    loop."""

    def __init__(self, network: MemoryNetwork, idle: Callable[[], None]) -> None:
        self._network = network
        self._idle = idle
        self._real = selectors.DefaultSelector()
        self._in_memory: dict[int, selectors.SelectorKey] = {}

    @property
    def watches_real(self) -> bool:
        """Whether a real descriptor other than the loop's own pipe is registered."""
        return len(self._real.get_map()) > 1

    def wait_really(self, seconds: float) -> bool:
        """Wait at most `seconds` until a real descriptor is ready. `select` returns it afterwards."""
        return bool(self._real.select(seconds))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._poll()
        if not events and timeout != 0:  # asyncio passes 0 if something is ready or due
            self._idle()
            events = self._poll()
        return events

    def _poll(self) -> list[tuple[selectors.SelectorKey, int]]:
        return self._real.select(0) + self._network.poll(self._in_memory)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not _is_in_memory(fileobj):
            return self._real.register(fileobj, events, data)
        key = self._in_memory[fileobj] = selectors.SelectorKey(fileobj, fileobj, events, data)
        self._network.mark_descriptor(fileobj)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        if not _is_in_memory(fileobj):
            return self._real.unregister(fileobj)
        return self._in_memory.pop(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not _is_in_memory(fileobj):
            return self._real.modify(fileobj, events, data)
        return self.register(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return collections.ChainMap(self._in_memory, self._real.get_map())  # type: ignore[arg-type]

    def close(self) -> None:
        self._real.close()
        self._in_memory.clear()


def _is_in_memory(fileobj: Any) -> bool:
    return isinstance(fileobj, int) and fileobj >= FIRST_DESCRIPTOR
