"""A job queue that survives its consumers.

Workers with a session each take jobs from one queue. Some of them die in the middle of a job, as a process
that is killed would, and one kind of job fails whenever it is tried. At the end the example checks that every
good job was done, that nobody worked on a job that somebody else still had, and that the bad ones were put
aside after their attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import uuid
from collections import Counter

import corral
import zookeeper

MAX_ATTEMPTS = 3


class BadJob(Exception):
    """A job that cannot be done."""


class Work:
    """What the workers have done."""

    def __init__(self) -> None:
        self.done = Counter[bytes]()
        self.failures = Counter[bytes]()
        self.deaths = 0
        self.overlaps = 0
        self.in_work = set[bytes]()


async def handle(job: corral.Job, work: Work) -> None:
    """Do one job. While it is in work, nobody else is handed it."""
    work.overlaps += job.data in work.in_work
    work.in_work.add(job.data)
    try:
        await asyncio.sleep(0.01)
        if job.data.startswith(b"bad"):
            work.failures[job.data] += 1
            raise BadJob
    finally:
        work.in_work.discard(job.data)


async def consume(hosts: str, work: Work, *, dies_after: int | None) -> None:
    """Take jobs, one after the other. With `dies_after`, lose the session in the middle of that job."""
    async with corral.connect(hosts) as zk:
        count = 0
        async for job in zk.queue("/jobs", max_attempts=MAX_ATTEMPTS):
            count += 1
            with contextlib.suppress(BadJob, corral.LockLost):  # it is handed out again, or put aside
                async with job:
                    if count == dies_after:
                        work.deaths += 1
                        print(f"  a worker dies in {job.data.decode()}, attempt {job.attempt}")
                        await zk.close()
                        return
                    await handle(job, work)
                work.done[job.data] += 1


async def staff(hosts: str, work: Work, number: int) -> None:
    """A worker that dies is replaced, as a supervisor would do it."""
    if number % 2:
        await consume(hosts, work, dies_after=3)
    await consume(hosts, work, dies_after=None)


async def until_empty(queue: corral.Queue) -> None:
    """Print the size of the queue until it is empty."""
    async with queue.watch_size() as sizes:
        async for size in sizes:
            if size % 20 == 0:
                print(f"  {size} jobs left")
            if size == 0:
                return


def check(work: Work, jobs: set[bytes], failed: list[corral.FailedItem]) -> bool:
    """Print what was done, and return whether it is as expected."""
    bad = {job for job in jobs if job.startswith(b"bad")}
    results = {
        f"good jobs done: {len(work.done)} of {len(jobs - bad)}": set(work.done) == jobs - bad,
        f"workers that died: {work.deaths}": work.deaths > 0,
        f"jobs in two hands at once: {work.overlaps}": work.overlaps == 0,
        f"bad jobs put aside: {len(failed)} of {len(bad)}": {each.data for each in failed} == bad,
        f"each after {MAX_ATTEMPTS} attempts": all(each.attempts == MAX_ATTEMPTS for each in failed),
    }
    for what, good in results.items():
        print(f"{'ok  ' if good else 'FAIL'} {what}")
    return all(results.values())


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Put the jobs, run the workers until all is done, then check."""
    root, work = f"/corral-jobs-{uuid.uuid4().hex[:8]}", Work()
    jobs = [b"job %d" % number for number in range(arguments.jobs)] + [b"bad 1", b"bad 2"]
    async with corral.connect(hosts) as zk:
        print(f"connected: {zk}")
        await zk.create(root)
        try:
            queue = zk.chroot(root).queue("/jobs", max_attempts=MAX_ATTEMPTS)
            await queue.put_many(jobs)
            await queue.put(b"urgent", priority=0)
            workers = [
                asyncio.create_task(staff(hosts + root, work, number)) for number in range(arguments.workers)
            ]
            await until_empty(queue)
            failed = await queue.failed()
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
        finally:
            await zk.delete(root, recursive=True)
    return check(work, {*jobs, b"urgent"}, failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4, help="how many workers (default: 4)")
    parser.add_argument("--jobs", type=int, default=60, help="how many jobs (default: 60)")
    zookeeper.run(main, parser)
