"""Many addresses, few of which answer, in virtual time: for tests of connecting and its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from corral.testing import EmbeddedServer, VirtualLoop

T = TypeVar("T")
PORT = 2181


class Network(VirtualLoop):
    """A network in which addresses may be unreachable, so that connecting never ends, and lookups may
    hang."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reaches: Callable[[str], bool] = lambda host: True
        """Called once for each attempt to connect."""
        self.hanging: set[str] = set()
        """Names whose lookup never ends."""
        self.look_ups: Counter[str] = Counter()
        """How many lookups of each name are under way."""
        self.most_look_ups: Counter[str] = Counter()

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:  # type: ignore[override]
        self.look_ups[host] += 1
        self.most_look_ups[host] = max(self.most_look_ups[host], self.look_ups[host])
        try:
            if host in self.hanging:
                await self.create_future()
            return await super().getaddrinfo(host, port, **options)
        finally:
            self.look_ups[host] -= 1

    async def _connect_sock(self, exceptions: Any, addr_info: Any, local_addr_infos: Any = None) -> Any:
        if not self.reaches(addr_info[4][0]):
            await self.create_future()
        return await super()._connect_sock(exceptions, addr_info, local_addr_infos)


def run(main: Callable[[], Coroutine[Any, Any, T]], **options: Any) -> T:
    """Run it in virtual time, in an event loop with these options; checks that no task is left."""

    async def nothing_left() -> T:
        result = await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=lambda: Network(**options)) as runner:
        return runner.run(nothing_left())


def network() -> Network:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Network)
    return loop


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


class Fronts:
    """Addresses in front of one server. All are silent but one: the one that is tried last.

    The silent ones accept the connection and send nothing, or do not even accept it.
    """

    def __init__(self, server: EmbeddedServer, count: int, *, unreachable: bool) -> None:
        self.hosts = [f"10.0.{n // 200}.{1 + n % 200}" for n in range(count)]
        self.good: str | None = None
        """The one that passes data on, once it is known."""
        self.passed_at = 0.0
        """When data from the server was last passed on."""
        self.attempts: list[float] = []
        self._server = server
        self._unreachable = unreachable
        self._tried: set[str] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Fronts]:
        network().reaches = self._reaches
        async with contextlib.AsyncExitStack() as stack:
            tasks: set[asyncio.Task[None]] = set()
            for host in self.hosts:
                listener = await asyncio.start_server(self._serving(host, tasks), host, PORT)
                stack.callback(listener.close)
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)

    def fall_silent(self) -> None:
        """The good one falls silent, and stays so until all the others have been tried."""
        assert self.good is not None
        self._tried = {self.good}
        self.good = None

    def _reaches(self, host: str) -> bool:
        if host not in self.hosts:
            return True
        self.attempts.append(now())
        self._tried.add(host)
        if self.good is None and len(self._tried) == len(self.hosts):
            self.good = host
        return host == self.good or not self._unreachable

    def _serving(self, host: str, tasks: set[asyncio.Task[None]]) -> Callable[..., Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await self._pass_on(host, reader, writer)
            writer.transport.abort()

        return serve

    async def _pass_on(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host != self.good:
            while await reader.read(65536):
                pass
            return
        where, _, port = self._server.address.rpartition(":")
        from_server, to_server = await asyncio.open_connection(where, int(port))

        async def answers() -> None:
            while (data := await from_server.read(65536)) and host == self.good:
                self.passed_at = now()
                writer.write(data)

        answering = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                if host == self.good:
                    to_server.write(data)
        finally:
            to_server.transport.abort()
            answering.cancel()
            await asyncio.wait([answering])


def connect_string(hosts: Sequence[str], way: str) -> str:
    """A connect string for these addresses: by number, by a name for each, or by one name for all."""
    names = network().hosts
    if way == "one name":
        names["zk"] = hosts
        return f"zk:{PORT}"
    if way == "names":
        for n, host in enumerate(hosts):
            names[f"zk{n}"] = host
        hosts = [f"zk{n}" for n in range(len(hosts))]
    return ",".join(f"{host}:{PORT}" for host in hosts)
