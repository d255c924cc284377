"""Services that register themselves, and one that calls them through a provider, while one of them fails.

Three instances of the service "greeter" register themselves; one of them closes each connection without an
answer. The caller picks an instance for each call, reports what failed, and tries another. The failing one is
left out for a while, longer each time. Then an instance leaves, and nobody calls it any more.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator

import corral
import zookeeper

ATTEMPTS = 5


@contextlib.asynccontextmanager
async def greeter(services: corral.Services, name: str, *, fails: bool = False) -> AsyncIterator[str]:
    """Serve greetings, registered from before the first call until before the server stops."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if not fails:
            writer.write(f"{name}\n".encode())
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    address, port = server.sockets[0].getsockname()
    async with server, services.register("greeter", id=name, address=address, port=port) as me:
        yield me.instance.id


class Caller:
    """Calls whatever instance is there."""

    def __init__(self, provider: corral.ServiceProvider) -> None:
        self.answers = collections.Counter[str]()
        self.failures = collections.Counter[str]()
        self._provider = provider

    async def call(self) -> str:
        """Ask an instance for a greeting; another one, if it fails."""
        for _ in range(ATTEMPTS):
            instance = self._provider.pick()
            try:
                answer = await self._ask(instance)
            except OSError:
                self._provider.note_error(instance)
                self.failures[instance.id] += 1
            else:
                self._provider.note_success(instance)
                self.answers[instance.id] += 1
                return answer
        raise OSError(f"{ATTEMPTS} calls in a row have failed")

    async def _ask(self, instance: corral.ServiceInstance) -> str:
        reader, writer = await asyncio.open_connection(instance.address, instance.port)
        try:
            writer.write(b"hello\n")
            answer = await reader.readline()
        finally:
            writer.close()
        if not answer:
            raise ConnectionError(f"{instance.id} gave no answer")
        return answer.decode().strip()


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Call the three, then the two that are left, and check who has answered."""
    async with contextlib.AsyncExitStack() as stack, corral.connect(hosts) as zk:
        services = zk.services("/examples/services")
        await stack.enter_async_context(greeter(services, "anna"))
        await stack.enter_async_context(greeter(services, "broken", fails=True))
        leaver = greeter(services, "carl")
        await leaver.__aenter__()

        async with services.provider("greeter") as provider:
            caller = Caller(provider)
            for _ in range(100):
                await caller.call()
            print(f"answers: {dict(caller.answers)}, failures: {dict(caller.failures)}")
            both_answered = caller.answers.keys() == {"anna", "carl"}
            few_failed = caller.failures.keys() == {"broken"} and caller.failures.total() < 33

            await leaver.__aexit__(None, None, None)
            async with asyncio.timeout(20):
                async for instances in services.watch("greeter"):
                    if all(instance.id != "carl" for instance in instances):
                        break
            caller.answers.clear()
            for _ in range(100):
                await caller.call()
            print(f"answers: {dict(caller.answers)}, failures: {dict(caller.failures)}")
            one_answered = caller.answers.keys() == {"anna"}
        await stack.aclose()  # the services leave before the client is closed
        nobody_is_left = await services.instances("greeter") == []
    return both_answered and few_failed and one_answered and nobody_is_left


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
