"""Record the files in `golden/` again, from servers on a local JVM. Run by hand: ``python
tests/wire/capture.py``.

corral's encoders make the requests, so a wrong one is recorded, too. But then the server's answer is wrong,
and test_golden.py, which must be run after this, fails.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # as pytest has it

from exchanges import CONVERSATIONS, SASL_PASSWORD, SASL_USER  # noqa: E402
from recording import Recording, play  # noqa: E402

from corral.testing import LocalEnsemble, LocalServer, Server  # noqa: E402
from support import until  # noqa: E402

JAAS = f"""Server {{
    org.apache.zookeeper.server.auth.DigestLoginModule required user_{SASL_USER}="{SASL_PASSWORD}";
}};
"""


async def record(name: str, server: Server) -> Recording:
    """Record one conversation with a server that has an empty tree."""
    about = (await server.four_letter_word("srvr")).splitlines()[0]
    return await play(about, server.address, "/golden", CONVERSATIONS[name])


async def standalone() -> dict[str, Recording]:
    async with LocalServer() as server:
        return {"standalone": await record("standalone", server)}


async def ensemble(*, local_sessions: bool) -> dict[str, Recording]:
    servers = LocalEnsemble(
        2,
        extra_config={"reconfigEnabled": "true", "localSessionsEnabled": str(local_sessions).lower()},
        java_properties={"zookeeper.skipACL": "yes", "readonlymode.enabled": "true"},
    )
    try:
        await servers.start()
        leader = await servers.leader()
        recordings = {"ensemble": await record("ensemble", leader)}
        for server in servers.servers:
            if server is not leader:
                await server.kill()

        async def is_read_only() -> bool:
            return await leader.role() == "read-only"

        await until(is_read_only, "the server that is left serves read-only")
        name = "read-only" if local_sessions else "no-sessions"
        return recordings | {name: await record(name, leader)}
    finally:
        await servers.close()


async def sasl() -> dict[str, Recording]:
    with tempfile.NamedTemporaryFile("w") as jaas:
        jaas.write(JAAS)
        jaas.flush()
        async with LocalServer(
            extra_config={"authProvider.1": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"},
            java_properties={"java.security.auth.login.config": jaas.name},
        ) as server:
            return {"sasl": await record("sasl", server)}


async def main() -> None:
    recordings = await standalone() | await sasl()
    for local_sessions in (True, False):
        recordings |= await ensemble(local_sessions=local_sessions)
    for name, recording in recordings.items():
        recording.save(HERE / "golden" / f"{name}.json")


asyncio.run(main())
