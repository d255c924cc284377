"""An event loop whose time is the test's, with a network in memory: an hour passes at once, and exactly.

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())  # in which asyncio.sleep(3600) takes 3600 s by loop.time(), and no time at all

Any asyncio code runs on it unchanged: a client, a server and a proxy between them talk by asyncio's own
transports over sockets that are none of the operating system's. Two runs with the same seed are the same run.

The law of its time:

1. Time does not pass while something runs or is ready to run; only `VirtualLoop.block` makes it. So whoever
   polls with ``asyncio.sleep(0)`` for what takes time polls for ever.
2. When nothing is ready, time jumps to what is next: a timer, or the arrival of what is under way.
3. Unless something real is awaited, which the loop cannot foresee: a job in an executor (`run_in_executor`,
   `asyncio.to_thread`); a real file descriptor (a pipe of a subprocess, `add_reader`); or, inside
   `VirtualLoop.awaiting_threads`, a call from any thread. Then time stands still, and the loop waits as any
   loop does. So a job takes no time, however long it takes; and one that itself waits for this loop's time
   to pass waits for ever.
4. When nothing is ready, nothing is next and nothing real is awaited, nothing can ever happen again: the loop
   raises `Deadlock`.
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
"""Not 0, which would hide that something takes 0 for "never" or for "long ago"."""

_REMINDER = 10.0
"""Real seconds after which it is logged that the loop still waits for something real."""

_NO_REAL_NETWORK = (
    "VirtualLoop has no real network: connect and listen by host and port, with create_connection, "
    "create_server or asyncio's streams, which are in memory; for a real server use another loop"
)

_LOCALHOST = ("127.0.0.1", "::1")


class Deadlock(CorralError):
    """Nothing can ever happen again in a `VirtualLoop`: every task waits for another, or for nobody.

    The message names the tasks. A real loop would hang here. The loop goes on working: `asyncio.Runner`
    cancels the tasks and closes it as ever.
    """


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time and a network in memory. See the module's documentation."""

    virtual: Final = True
    """What tells this loop from others: whoever needs a clock takes `time`."""

    _closed = True  # until there is a loop to close: what is refused by `__init__` is not left open
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
        """`start` is the first `time`, in seconds. All that is random is drawn by `seed`.

        `latency` is how many seconds each piece of a stream is under way; of a pair (least, most), a random
        number between them. With `fragment`, each read gets a random number of bytes from 1 to that many,
        instead of all that is there: TCP may cut a stream anywhere.
        """
        least, most = latency if isinstance(latency, tuple) else (latency, latency)
        if not 0 <= least <= most < math.inf:
            raise UsageValueError(f"latency={latency!r}: it is seconds, 0 or more, or a pair (least, most)")
        if fragment is not None and fragment < 1:
            raise UsageValueError(
                f"fragment={fragment!r}: a read gets at least 1 byte; None for all there is"
            )
        self.rng = random.Random(seed)
        """Draws what is random; whatever else in a test is random can share it."""
        self.hosts: dict[str, str | Sequence[str]] = {"localhost": _LOCALHOST}
        """The address of each name, or several in order. Any other host has to be an address."""
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
        """Let time pass while nothing else runs, as code that blocks the loop does, or a machine that sleeps.

        Afterwards the loop finds out at once all that has come meanwhile: first what it was sent, then which
        timers are due, since that is asyncio's order.
        """
        if not 0 <= seconds < math.inf:
            raise UsageValueError(f"block({seconds!r}): time only goes forward; give seconds, 0 or more")
        self._move_to(self._now + seconds)

    async def wait_all_tasks_blocked(self) -> None:
        """Let all happen that can happen without time passing: wait until no task could run any more.

        What is under way with a latency arrives later; jobs in executors are waited for. Cancelling it is
        safe.
        """
        waiter = self.create_future()
        self._until_blocked.append(waiter)
        await waiter

    @contextlib.contextmanager
    def awaiting_threads(self) -> Iterator[None]:
        """Inside, time stands still when nothing is ready: a thread will call, of which the loop cannot know.

        For threads of your own (and of anyio) that use `call_soon_threadsafe` or
        `asyncio.run_coroutine_threadsafe`. It may be entered in another thread than the loop's.
        """
        self._threads_awaited += 1
        try:
            yield
        finally:
            self._threads_awaited -= 1

    def _move_to(self, now: float) -> None:
        self._now = now
        # asyncio runs what is due within its clock's resolution. Nothing may run before its time here, not
        # by a nanosecond: it would set its timer again, and time stands still meanwhile. Nor may a resolution
        # be lost in rounding when time is large, since then what is due would not run at all.
        self._clock_resolution = math.ulp(now)

    def _idle(self) -> None:
        """Nothing is ready: make something ready."""
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
            f"nothing can ever happen again in this loop, at {self._now} s: nothing is ready, no timer set, "
            f"nothing is under way. These tasks wait: {', '.join(waiting) or 'none'}. If a thread of "
            "yours was to wake one, wait for it inside loop.awaiting_threads()"
        )

    # Threads

    def run_in_executor(  # type: ignore[override]  # typeshed has it with an older way to write it
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As ever; time stands still until the job is done, or is not awaited any more."""
        job = super().run_in_executor(executor, func, *args)
        self._real_jobs.add(job)
        job.add_done_callback(self._real_jobs.discard)
        return job

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """As ever; its time limit is of no avail, since time stands still."""
        with self.awaiting_threads():  # it waits for a thread of asyncio's own
            await super().shutdown_default_executor(*args, **kwargs)

    # The network

    async def getaddrinfo(  # type: ignore[override]
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, SockAddr]]:
        """Look a name up in `hosts`, or say what an address means, or None. It is done at once."""
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
        """As ever, in memory; to any address where somebody listens in this loop. Cancelling it is safe."""
        if sock is not None:
            raise NotImplementedError(_NO_REAL_NETWORK)
        return await super().create_connection(*args, **kwargs)

    async def _connect_sock(
        self, exceptions: list[list[OSError]], addr_info: Any, local_addr_infos: Any = None
    ) -> MemorySocket:
        # Of `create_connection`, what makes one attempt. (Should asyncio rename it, `sock_connect` would be
        # called, and raise.) The handshake is a round trip, after which both ends know of the connection.
        family, _, _, _, address = addr_info
        sources = (info[4] for info in local_addr_infos or () if info[0] == family)
        await asyncio.sleep(self._network.latency() + self._network.latency())
        try:
            sock = self._network.connect(family, address, next(sources, None))
        except OSError as error:
            exceptions.append([error])
            raise
        try:
            # So many turns asyncio needs to find a real socket connected. A client that went on before the
            # server has accepted could close the server first, which is a race that asyncio loses.
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
        """As ever, in memory, at any address. Cancelling it is safe.

        A server with several addresses has one socket for them all, and one port. The backlog has no bound.
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
        """Close the loop. What was connected in it is forgotten."""
        super().close()
        self._network.close()


class _Selector(selectors.BaseSelector):
    """What asyncio asks who is ready: of descriptors in memory, and of real ones, such as the pipe by which
    threads wake the loop."""

    def __init__(self, network: MemoryNetwork, idle: Callable[[], None]) -> None:
        self._network = network
        self._idle = idle
        self._real = selectors.DefaultSelector()
        self._in_memory: dict[int, selectors.SelectorKey] = {}

    @property
    def watches_real(self) -> bool:
        """Whether a real descriptor is watched beside the loop's own pipe."""
        return len(self._real.get_map()) > 1

    def wait_really(self, seconds: float) -> bool:
        """Wait until a real descriptor is ready, which then stays so until asked for; at most so long."""
        return bool(self._real.select(seconds))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._poll()
        if not events and timeout != 0:  # 0 is what asyncio asks with if something is ready or due
            self._idle()
            events = self._poll()
        return events

    def _poll(self) -> list[tuple[selectors.SelectorKey, int]]:
        return self._real.select(0) + self._network.poll(self._in_memory)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not _is_in_memory(fileobj):
            return self._real.register(fileobj, events, data)
        key = self._in_memory[fileobj] = selectors.SelectorKey(fileobj, fileobj, events, data)
        self._network.stir_descriptor(fileobj)
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
