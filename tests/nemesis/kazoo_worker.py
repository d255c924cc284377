"""A worker that acquires its locks through kazoo, for comparison; otherwise like `lock_worker`.

kazoo does not notify the body; a user can find out with a listener. Its writes are not fenced, as kazoo has
nothing to fence them with; its token is, as with corral, the zxid of its node's creation.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time

from base_worker import TURN, Orders
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry
from lock_worker import lock_path, log_path
from record import Recorder


class Worker:
    """Acquires the locks repeatedly, until its standard input ends."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._dice = random.Random(orders.seed)
        self._record = Recorder(orders.record, orders.number)
        self._over = False
        self._hurry = threading.Event()
        self._leave = threading.Event()  # set once every body must end

    def run(self) -> None:
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()
        retry = KazooRetry(max_tries=-1, max_delay=1.0)
        zk = KazooClient(self._orders.hosts, timeout=self._orders.session_timeout, connection_retry=retry)
        if self._orders.way == "kazoo with a listener":
            zk.add_listener(self._listen)
        zk.start(timeout=60)
        tasks = [threading.Thread(target=self._take_turns, args=(zk, lock)) for lock in self._orders.locks]
        for task in tasks:
            task.start()
        for task in tasks:
            task.join()
        zk.stop()
        zk.close()

    def _take_turns(self, zk: KazooClient, number: int) -> None:
        path = lock_path(self._orders, number)
        while not self._over:
            leave = self._leave  # the current one: each is set once
            lock = zk.Lock(path)
            try:
                with lock:
                    self._hold(zk, number, zk.get(f"{path}/{lock.node}")[1].czxid, leave)
            except (KazooException, KazooTimeoutError):
                pass  # it was lost, or is: kazoo raises errors of many kinds then

    def _hold(self, zk: KazooClient, number: int, token: int, leave: threading.Event) -> None:
        dice, orders = self._dice, self._orders
        long = dice.random() < orders.long_ones and not self._hurry.is_set()
        least, most = orders.long if long else orders.short
        if leave.is_set():
            return
        self._record.note("entered", lock=number, token=token)
        try:
            path = zk.create(f"{log_path(orders, number)}/{token}-{orders.number}-", sequence=True)
            self._record.note("wrote", lock=number, token=token, text=path.rpartition("/")[2])
            end = time.monotonic() + dice.uniform(least, most)
            while not leave.wait(min(TURN, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
                if long and self._hurry.is_set():
                    break
        finally:
            self._record.note("left", lock=number, token=token, text="told" if leave.is_set() else "done")

    def _listen(self, state: str) -> None:
        leave = self._leave
        if state == KazooState.CONNECTED:
            self._leave = threading.Event()
        else:
            leave.set()

    def _wait_for_the_end(self) -> None:
        while sys.stdin.buffer.read(1):
            self._hurry.set()
        self._over = True
        self._hurry.set()
        self._leave.set()


if __name__ == "__main__":
    Worker(Orders(**json.loads(sys.argv[1]))).run()
