"""Asyncio-native coordination on Apache ZooKeeper: ``async with corral.connect() as zk:``."""

from .client import Client as Client
from .client import connect as connect
from .codecs import *  # noqa: F403
from .codecs import __all__ as _codecs
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .recipes.counter import Counter as Counter
from .recipes.counter import CounterWatch as CounterWatch
from .recipes.election import Election as Election
from .recipes.kit.held import Held as Held
from .recipes.kit.line import Contender as Contender
from .recipes.kit.versioned import Versioned as Versioned
from .recipes.leader_watch import LeaderWatch as LeaderWatch
from .recipes.lock import Lock as Lock
from .recipes.multi_lock import MultiLock as MultiLock
from .recipes.registration import Registration as Registration
from .recipes.rwlock import HeldWrite as HeldWrite
from .recipes.rwlock import ReadLock as ReadLock
from .recipes.rwlock import RWLock as RWLock
from .recipes.rwlock import WriteLock as WriteLock
from .recipes.semaphore import Semaphore as Semaphore
from .recipes.value import Value as Value
from .recipes.value import ValueWatch as ValueWatch
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
    "Counter",
    "CounterWatch",
    "Election",
    "Held",
    "HeldWrite",
    "LeaderWatch",
    "Lock",
    "MultiLock",
    "NodeWatch",
    "RWLock",
    "RawWatch",
    "ReadLock",
    "Registration",
    "Semaphore",
    "StateStream",
    "Statistics",
    "Transaction",
    "TreeWatch",
    "Value",
    "ValueWatch",
    "Versioned",
    "WriteLock",
    "connect",
    *_codecs,
    *_errors,
    *_types,
]
