"""`python tests/archive_classes.py FILE` has a JVM archive the classes of a ZooKeeper server, for
CORRAL_ZOOKEEPER_CLASSES. Without Java or ZooKeeper it writes nothing."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from corral.testing import LocalEnsemble, LocalServer
from corral.testing.servers.jvm import find_java


async def archive_classes(archive: Path) -> None:
    """Run two servers that have elected a leader, which is when most classes are loaded, and end one in order."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        java = Path(folder, "java")
        java.write_text(f'#!/bin/sh\nexec {find_java(None)} -XX:ArchiveClassesAtExit={folder}/$$ "$@"\n')
        java.chmod(0o755)
        async with LocalEnsemble(2, java=str(java)) as servers:
            server = servers.servers[0]
            written = Path(folder, str(server.pid))
            await server.stop()
        if written.exists():
            written.replace(archive)


if __name__ == "__main__":
    if reason := LocalServer.missing():
        print(reason)
    else:
        asyncio.run(archive_classes(Path(sys.argv[1])))
