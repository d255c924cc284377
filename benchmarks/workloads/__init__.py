"""The workloads, in the order of the table."""

from __future__ import annotations

from bench import Workload
from workloads import (
    cache,
    connect,
    counters,
    discovery,
    endurance,
    event_delay,
    failover,
    follow,
    get,
    get_in_turn,
    handoffs,
    import_time,
    lock,
    queue,
    rebalance,
    set,
    thousand_locks,
    tls,
    watched_paths,
    watchers,
)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        get.WORKLOAD,
        set.WORKLOAD,
        get_in_turn.WORKLOAD,
        lock.WORKLOAD,
        thousand_locks.WORKLOAD,
        handoffs.WORKLOAD,
        counters.WORKLOAD,
        queue.WORKLOAD,
        rebalance.WORKLOAD,
        watchers.WORKLOAD,
        follow.WORKLOAD,
        watched_paths.WORKLOAD,
        event_delay.WORKLOAD,
        *cache.WORKLOADS,
        discovery.WORKLOAD,
        *failover.WORKLOADS,
        *endurance.WORKLOADS,
        connect.WORKLOAD,
        *tls.WORKLOADS,
        import_time.WORKLOAD,
    )
}
