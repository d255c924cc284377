"""What a client sees when its server fails: one of three is killed, closed or made silent.

    pip install . && python benchmarks/failover.py

For each it prints the longest time between two answered reads, whether the session was kept, and whether a
lock that was held meanwhile was kept. Session timeout 6 s, tick 0.5 s. A silent server is one that is stopped
by SIGSTOP: its connections stay open and say nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import corral
from corral.testing import LocalEnsemble, LocalServer

SESSION_TIMEOUT = 6.0


async def connected_to(ensemble: LocalEnsemble, server: LocalServer) -> corral.Client:
    """A client whose connection is to `server`: the order is random, so try until it is."""
    while True:
        zk = corral.connect(ensemble.hosts, session_timeout=SESSION_TIMEOUT)
        await zk.__aenter__()
        if zk.server == server.address:
            return zk
        await zk.close()


async def read_on(zk: corral.Client, gaps: list[float], over: asyncio.Event) -> int:
    """Read without a pause, and note the time between answers; returns how many reads failed."""
    last, failed = time.monotonic(), 0
    while not over.is_set():
        try:
            await zk.get("/failover")
        except corral.ConnectionLoss:
            failed += 1
            continue
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        await asyncio.sleep(0.005)
    return failed


async def fail(ensemble: LocalEnsemble, how: str, role: str) -> str:
    """Fail the server in `role`, and tell how that went."""
    server = await ensemble.leader() if role == "leader" else (await ensemble.followers())[0]
    zk = await connected_to(ensemble, server)
    session, gaps, over = zk.session_id, list[float](), asyncio.Event()
    held = await zk.lock("/lock").acquire()
    reading = asyncio.create_task(read_on(zk, gaps, over))
    await asyncio.sleep(1)
    if how == "killed":
        await server.kill()
    elif how == "closed":
        await server.stop()
    else:
        server.pause()
    try:
        await asyncio.wait_for(held.wait_lost(), SESSION_TIMEOUT * 1.5)
        lock = "lost"
    except TimeoutError:
        lock = "kept" if held.is_valid else "lost"
    over.set()
    failed = await reading
    kept = "kept" if zk.session_id == session else "new"
    if how == "silent":
        server.resume()
    else:
        await server.start()
    await held.release()
    await zk.close()
    await ensemble.leader()
    await ensemble.followers()
    return f"{role:9} {how:8} {max(gaps):8.2f} s   {kept:8} {lock:5} {failed:3}"


async def main(rounds: int) -> None:
    async with LocalEnsemble(3) as ensemble:
        async with corral.connect(ensemble.hosts) as zk:
            await zk.create("/failover")
        print("server    fails    longest gap  session  lock  failed reads")
        for _ in range(rounds):
            for how in ("killed", "closed", "silent"):
                for role in ("follower", "leader"):
                    print(await fail(ensemble, how, role), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    asyncio.run(main(parser.parse_args().rounds))
