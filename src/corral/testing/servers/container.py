"""A real ZooKeeper server in a Docker container, by testcontainers (``pip install corral[docker]``).

    async with ContainerServer("zookeeper:3.9") as server:
        async with corral.connect(server.address) as zk: ...

Docker's API blocks, so calls that may take long run in a thread. A running call cannot be interrupted: a
cancelled method ends when its call to Docker returns. testcontainers starts a container of its own that
removes the others if this process is killed.
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
from corral.testing.event_loop import running_loop

from .base import POLL, Server, ServerOptions, ServerUnavailable, Settings, answer_timeout
from .ports import free_ports

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

__all__ = ["ContainerServer", "container_environment"]

_CLIENT_PORT = 2181
_LOG_TAIL = 4000
_T = TypeVar("_T")


class ContainerServer(Server):
    """A standalone ZooKeeper server in a Docker container.

    It takes an image with the entry point of Docker's official one, and `ServerOptions`; `start_timeout`
    begins when the image is there. The constructor starts nothing; `start` raises `ServerUnavailable` without
    the package testcontainers or a Docker daemon.
    """

    def __init__(self, image: str = "zookeeper:3.9", **options: Unpack[ServerOptions]) -> None:
        self._image = image
        self._settings = Settings(**options)
        for name, value in self._settings.config().items():
            if value.split() != [value]:
                raise UsageValueError(
                    f"extra_config {name}={value!r}: the image takes no value that is empty or has spaces; "
                    "leave it out, or use LocalServer"
                )
        self._container: DockerContainer | None = None  # created by the first start, removed by `close`
        self._address: str | None = None

    def __repr__(self) -> str:
        return f"<ContainerServer {self._image} {self._address}>"

    @property
    def address(self) -> str:
        """Where clients connect, as ``host:port``. It never changes. `UsageStateError` before the first
        `start`."""
        if self._address is None:
            raise UsageStateError("a container has no address before its first start; call start() first")
        return self._address

    @property
    def running(self) -> bool:
        """Whether the container runs; a paused one counts. Asks Docker, and blocks until it answers."""
        return self._container_status() in ("running", "paused")

    async def start(self) -> None:
        """Start the container, for the first time or again with its data, and wait until ZooKeeper serves.

        Pulls the image if necessary. Raises `ServerUnavailable` if testcontainers or the daemon is missing,
        or if the server does not start; the message says which. If this fails or is cancelled, nothing runs.
        """
        running_loop()
        try:
            if self._container is None:
                await _in_thread(self._create)
            else:
                await _in_thread(self._docker().start)
            await self._wait_until_serving()
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Shut the server down in order (``docker stop``). It keeps its data and its port.

        A paused server is killed, since it must not be resumed for this. Nothing happens if the server is
        down. Docker cannot be interrupted: if cancelled, this ends when the current call to Docker has
        returned, and the server may still run.
        """
        status = await _in_thread(self._container_status)
        if status == "paused":
            await self.kill()
        elif status == "running":
            await _in_thread(self._docker().stop)

    async def kill(self) -> None:
        """End the server at once (``docker kill``). It keeps its data and its port; nothing happens if it is
        down. If cancelled, it behaves as `stop` does."""
        if await _in_thread(lambda: self.running):
            await _in_thread(self._docker().kill)

    def pause(self) -> None:
        """Freeze the server (``docker pause``). It blocks the event loop until Docker has done it."""
        self._docker().pause()

    def resume(self) -> None:
        """Let a paused server continue (``docker unpause``). It blocks the event loop until Docker has done
        it."""
        self._docker().unpause()

    async def close(self) -> None:
        """Remove the container, running or not, with its data. May be called repeatedly and in any state. If
        cancelled, it ends when Docker has removed the container."""
        container, self._container, self._address = self._container, None, None
        if container is not None:
            await _in_thread(container.stop)  # removes it, running or not, with its volumes

    def _docker(self) -> Any:  # docker-py has no types
        if self._container is None:
            raise UsageStateError("the container was not started, or is closed; call start() first")
        return self._container.get_wrapped_container()

    def _container_status(self) -> str | None:
        if self._container is None:
            return None
        docker = self._docker()
        docker.reload()
        return str(docker.status)

    def _create(self) -> None:
        """Create the container and start it. It is in `_container` only if that succeeds."""
        try:
            from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise ServerUnavailable(
                "the package testcontainers is not installed; pip install 'corral[docker]'"
            ) from error
        try:
            container = DockerContainer(self._image)
        except Exception as error:  # docker-py's: the constructor already talks to the daemon
            _close_sockets(error)
            raise ServerUnavailable(
                "no Docker daemon answers; start one, or set DOCKER_HOST to where it listens "
                f"({type(error).__name__}: {error})"
            ) from error
        for name, value in container_environment(self._settings).items():
            container.with_env(name, value)
        # Bound to a fixed port, because Docker would choose another one at each restart.
        container.with_bind_ports(_CLIENT_PORT, free_ports(1)[0])
        try:
            container.start()
        except Exception as error:
            with contextlib.suppress(Exception):  # the first error is the one to report
                container.stop()
            raise ServerUnavailable(f"Docker did not start {self._image}: {error}") from error
        self._container = container
        self._address = f"{container.get_container_host_ip()}:{container.get_exposed_port(_CLIENT_PORT)}"

    async def _wait_until_serving(self) -> None:
        began, limit = time.monotonic(), self._settings.start_timeout
        while await self.role(timeout=answer_timeout(time.monotonic() - began)) is None:
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


def container_environment(settings: Settings) -> dict[str, str]:
    """The environment variables that configure the image."""
    flags = [f"-D{name}={value}" for name, value in settings.properties().items()]
    return {
        # The entry point appends these to zoo.cfg, so that they override its own entries.
        "ZOO_CFG_EXTRA": " ".join(f"{name}={value}" for name, value in settings.config().items()),
        "SERVER_JVMFLAGS": " ".join([f"-Xmx{settings.heap}", *flags]),
    }


def _close_sockets(error: BaseException | None) -> None:
    """Close the sockets that docker-py leaves open if no daemon answers; only its error's frames know
    them."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, socket.socket):
                    value.close()
        error = error.__cause__ or error.__context__


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread and wait for its end, even if cancelled: it may have created a
    container."""
    future = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # marks it as retrieved, so that asyncio does not report it
        raise cancelled
    return future.result()
