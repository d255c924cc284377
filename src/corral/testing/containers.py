"""A real ZooKeeper server in a Docker container, by testcontainers (``pip install corral[docker]``).

    async with ContainerServer("zookeeper:3.9") as server:
        async with corral.connect(server.address) as zk: ...

Docker's API blocks, so what may take long runs in a thread; a call to Docker that is under way cannot be
interrupted, and a cancelled method ends when that call does. testcontainers has a container of its own watch
over the others, which removes them should this process be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from corral.errors import UsageStateError, UsageValueError
from corral.testing._server import (
    POLL,
    Server,
    ServerOptions,
    ServerUnavailable,
    Settings,
    free_ports,
    patience,
    running_loop,
)

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

__all__ = ["ContainerServer"]

_CLIENT_PORT = 2181
_LOG_TAIL = 4000
_T = TypeVar("_T")


class ContainerServer(Server):
    """A standalone ZooKeeper server in a Docker container.

    It takes an image with the entry point of Docker's official one, and `ServerOptions`; `start_timeout` runs
    once the image is there. Making one does nothing; `start` needs the package testcontainers and a Docker
    daemon and raises `ServerUnavailable` without them.
    """

    def __init__(self, image: str = "zookeeper:3.9", **options: Unpack[ServerOptions]) -> None:
        self._image = image
        self._settings = Settings(**options)
        for name, value in self._settings.config().items():
            if value.split() != [value]:
                raise UsageValueError(f"extra_config {name}={value!r}: the image takes no value with spaces")
        self._container: DockerContainer | None = None  # made by the first start, removed by `close`
        self._address: str | None = None

    def __repr__(self) -> str:
        return f"<ContainerServer {self._image} {self._address}>"

    @property
    def address(self) -> str:
        if self._address is None:
            raise UsageStateError("a container has an address once it was started; call start() first")
        return self._address

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts. Asks Docker, and blocks for that long."""
        return self._status() in ("running", "paused")

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which the image is configured."""
        flags = [f"-D{name}={value}" for name, value in self._settings.properties().items()]
        return {
            # The entry point writes these lines last, so that they win over its own.
            "ZOO_CFG_EXTRA": " ".join(f"{name}={value}" for name, value in self._settings.config().items()),
            "SERVER_JVMFLAGS": " ".join([f"-Xmx{self._settings.heap}", *flags]),
        }

    async def start(self) -> None:
        """Start the container, the first time or again with its data, and wait until ZooKeeper serves.

        Pulls the image if need be. Raises `ServerUnavailable` if the package or the daemon is missing, or if
        the server does not come up; the message says which. If this fails or is cancelled, nothing runs.
        """
        running_loop()
        try:
            if self._container is None:
                await _in_thread(self._create)
            else:
                await _in_thread(self._docker().start)
            await self._until_it_serves()
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Shut the server down in order (``docker stop``). Data and port stay.

        A paused server must not run on for a moment, so it is killed. Nothing happens if it is down. Docker
        cannot be interrupted: cancelled, this ends once the call to Docker that is under way has returned,
        and the server may still run.
        """
        status = await _in_thread(self._status)
        if status == "paused":
            await self.kill()
        elif status == "running":
            await _in_thread(self._docker().stop)

    async def kill(self) -> None:
        """End the server at once (``docker kill``). Data and port stay; nothing happens if it is down.
        Cancelled, it behaves as `stop` does."""
        if await _in_thread(lambda: self.running):
            await _in_thread(self._docker().kill)

    def pause(self) -> None:
        """Freeze the server (``docker pause``); blocks the event loop while Docker does it."""
        self._docker().pause()

    def resume(self) -> None:
        """Let a paused server run on (``docker unpause``); blocks the event loop while Docker does it."""
        self._docker().unpause()

    async def close(self) -> None:
        """Remove the container, running or not, with its data. May be called again, and after anything.
        Cancelled, it ends once Docker has removed the container."""
        container, self._container, self._address = self._container, None, None
        if container is not None:
            await _in_thread(container.stop)  # which is to remove it, running or not, with its volumes

    def _docker(self) -> Any:  # docker-py has no types
        if self._container is None:
            raise UsageStateError("the container was not started, or was closed")
        return self._container.get_wrapped_container()

    def _status(self) -> str | None:
        if self._container is None:
            return None
        docker = self._docker()
        docker.reload()
        return str(docker.status)

    def _create(self) -> None:
        """Make the container and start it; whatever was made is in `_container`, however this ends."""
        try:
            from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise ServerUnavailable(
                "the package testcontainers is not installed; pip install 'corral[docker]'"
            ) from error
        try:
            container = DockerContainer(self._image)
        except Exception as error:  # docker-py's; its constructor talks to the daemon
            _close_sockets(error)
            raise ServerUnavailable(
                "no Docker daemon answers; start one, or set DOCKER_HOST to where it listens "
                f"({type(error).__name__}: {error})"
            ) from error
        for name, value in self.environment.items():
            container.with_env(name, value)
        # Bound to a port of our choice: Docker would choose another one at each restart.
        container.with_bind_ports(_CLIENT_PORT, free_ports(1)[0])
        try:
            container.start()
        except Exception as error:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                container.stop()
            raise ServerUnavailable(f"Docker did not start {self._image}: {error}") from error
        self._container = container
        self._address = f"{container.get_container_host_ip()}:{container.get_exposed_port(_CLIENT_PORT)}"

    async def _until_it_serves(self) -> None:
        began, limit = time.monotonic(), self._settings.start_timeout
        while await self.role(timeout=patience(time.monotonic() - began)) is None:
            if not await _in_thread(lambda: self.running):
                raise await _in_thread(partial(self._failure, "ended while starting"))
            if time.monotonic() - began > limit:
                raise await _in_thread(partial(self._failure, f"did not serve within {limit:g} s"))
            await asyncio.sleep(POLL)

    def _failure(self, what: str) -> ServerUnavailable:
        log = self._docker().logs().decode("utf-8", "replace")[-_LOG_TAIL:].strip()
        return ServerUnavailable(
            f"the container of {self._image} at {self._address} {what}; the end of its log:\n{log}"
        )


def _close_sockets(error: BaseException | None) -> None:
    """Close what docker-py leaves open when nobody answers: its own error's frames alone still know it."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, socket.socket):
                    value.close()
        error = error.__cause__ or error.__context__


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread and wait for its end, come what may: it may have made a container."""
    future = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not report it as unnoticed
        raise cancelled
    return future.result()
