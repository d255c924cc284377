"""Servers with SASL's DIGEST-MD5: embedded ones, or real ones that tests share; and their users."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

import corral
from corral.testing import EmbeddedServer, LocalServer, VirtualLoop
from support import started

USERS: Mapping[str, str] = {
    "bob": "hush-bob",
    "eve": "hush-eve",
    "super": "hush-super",
    "jürgen": "hush-pässwörd",
    "密": "hush-ключ",
    'q"uo\\te': 'hush-"\\',
}
SECRET = "hush"
"""Part of every secret here: nothing shows it."""
BOB = corral.DigestMD5("bob", USERS["bob"])
PROVIDER = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"


def only(user: str) -> list[corral.Acl]:
    """An access control list that lets one user of SASL do everything."""
    return [corral.Acl(corral.Perm.ALL, "sasl", user)]


@contextlib.contextmanager
def shared_server(
    config: pytest.Config, paths: pytest.TempPathFactory, *, required: bool
) -> Iterator[str | None]:
    """The address of a real server that knows `USERS`; None if this run is on embedded ones. With `required` it
    refuses whoever has not authenticated by SASL."""
    choice = config.getoption("--zookeeper") or config.getini("zookeeper")
    if choice == "embedded" or config.getoption("--loop") == "virtual" or LocalServer.missing():
        yield None
        return
    jaas = paths.mktemp("jaas") / "jaas.conf"
    users = [f"{_quoted('user_' + user)}={_quoted(secret)}" for user, secret in USERS.items()]
    login = "org.apache.zookeeper.server.auth.DigestLoginModule required"
    jaas.write_text("\n  ".join(["Server {", login, *users]) + ";\n};\n", encoding="utf-8")
    properties = {"java.security.auth.login.config": str(jaas), "zookeeper.authProvider.1": PROVIDER}
    if required:
        properties["zookeeper.sessionRequireClientSASLAuth"] = "true"
    server = LocalServer(java_properties=properties)
    with started(server):
        yield server.address


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@contextlib.asynccontextmanager
async def server_of_test(shared: str | None, *, required: bool) -> AsyncIterator[str]:
    """The address of the shared server, if there is one, or else of an embedded one in the test's loop."""
    if shared is not None and not isinstance(asyncio.get_running_loop(), VirtualLoop):
        yield shared
        return
    async with EmbeddedServer(sasl=USERS, require_sasl=required) as server:
        yield server.address
