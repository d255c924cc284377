"""Asyncio-native coordination on Apache ZooKeeper: ``async with corral.connect() as zk:``."""

from .client import Client as Client
from .client import connect as connect
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .recipes.assignment import rendezvous as rendezvous
from .recipes.election import Election as Election
from .recipes.kit.held import Held as Held
from .recipes.kit.line import Contender as Contender
from .recipes.leader_watch import LeaderWatch as LeaderWatch
from .recipes.lock import Lock as Lock
from .recipes.multi_lock import MultiLock as MultiLock
from .recipes.partition import Partition as Partition
from .recipes.registration import Registration as Registration
from .recipes.rwlock import HeldWrite as HeldWrite
from .recipes.rwlock import ReadLock as ReadLock
from .recipes.rwlock import RWLock as RWLock
from .recipes.rwlock import WriteLock as WriteLock
from .recipes.semaphore import Semaphore as Semaphore
from .session.state_stream import StateStream as StateStream
from .statistics import Statistics as Statistics
from .transaction import Transaction as Transaction
from .types import *  # noqa: F403
from .types import __all__ as _types
from .watch.children import ChildrenWatch as ChildrenWatch
from .watch.node import NodeWatch as NodeWatch
from .watch.raw import RawWatch as RawWatch
from .watch.tree.cache import Cache as Cache
from .watch.tree.watch import TreeWatch as TreeWatch

__all__ = [
    "Cache",
    "ChildrenWatch",
    "Client",
    "Contender",
    "Election",
    "Held",
    "HeldWrite",
    "LeaderWatch",
    "Lock",
    "MultiLock",
    "NodeWatch",
    "Partition",
    "RWLock",
    "RawWatch",
    "ReadLock",
    "Registration",
    "Semaphore",
    "StateStream",
    "Statistics",
    "Transaction",
    "TreeWatch",
    "WriteLock",
    "connect",
    "rendezvous",
    *_errors,
    *_types,
]
