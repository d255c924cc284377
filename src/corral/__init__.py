"""Asyncio-native coordination on Apache ZooKeeper: ``async with corral.connect() as zk:``."""

from . import acl as acl
from .client import Client as Client
from .client import connect as connect
from .codecs import *  # noqa: F403
from .codecs import __all__ as _codecs
from .ensemble import Ensemble as Ensemble
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .members import EnsembleConfig as EnsembleConfig
from .members import EnsembleMember as EnsembleMember
from .members import QuorumAddress as QuorumAddress
from .recipes.assignment import rendezvous as rendezvous
from .recipes.barrier import Barrier as Barrier
from .recipes.counter import Counter as Counter
from .recipes.counter import CounterWatch as CounterWatch
from .recipes.discovery.instance import ServiceInstance as ServiceInstance
from .recipes.discovery.instance import ServiceType as ServiceType
from .recipes.discovery.provider import ServiceProvider as ServiceProvider
from .recipes.discovery.services import ServiceRegistration as ServiceRegistration
from .recipes.discovery.services import Services as Services
from .recipes.discovery.services import ServiceWatch as ServiceWatch
from .recipes.discovery.strategies import Random as Random
from .recipes.discovery.strategies import RoundRobin as RoundRobin
from .recipes.discovery.strategies import Sticky as Sticky
from .recipes.double_barrier import DoubleBarrier as DoubleBarrier
from .recipes.election import Election as Election
from .recipes.group import Group as Group
from .recipes.group import GroupWatch as GroupWatch
from .recipes.group import Member as Member
from .recipes.group import Members as Members
from .recipes.group import Membership as Membership
from .recipes.kit.held import Held as Held
from .recipes.kit.line import Contender as Contender
from .recipes.kit.queue_layout import FailedItem as FailedItem
from .recipes.kit.versioned import Versioned as Versioned
from .recipes.leader_watch import LeaderWatch as LeaderWatch
from .recipes.lock import Lock as Lock
from .recipes.multi_lock import MultiLock as MultiLock
from .recipes.once import Once as Once
from .recipes.partition import Partition as Partition
from .recipes.queue import Job as Job
from .recipes.queue import Queue as Queue
from .recipes.queue import SizeWatch as SizeWatch
from .recipes.queue import Take as Take
from .recipes.registration import Registration as Registration
from .recipes.rwlock import HeldWrite as HeldWrite
from .recipes.rwlock import ReadLock as ReadLock
from .recipes.rwlock import RWLock as RWLock
from .recipes.rwlock import WriteLock as WriteLock
from .recipes.semaphore import Semaphore as Semaphore
from .recipes.value import Value as Value
from .recipes.value import ValueWatch as ValueWatch
from .session.sasl.digest import DigestMD5 as DigestMD5
from .session.sasl.kerberos import Kerberos as Kerberos
from .session.state_stream import StateStream as StateStream
from .statistics import Statistics as Statistics
from .transaction import Transaction as Transaction
from .types import *  # noqa: F403
from .types import __all__ as _types
from .watch.children import ChildrenWatch as ChildrenWatch
from .watch.config import EnsembleWatch as EnsembleWatch
from .watch.node import NodeWatch as NodeWatch
from .watch.raw import RawWatch as RawWatch
from .watch.tree.cache import Cache as Cache
from .watch.tree.watch import TreeWatch as TreeWatch

__all__ = [
    "Barrier",
    "Cache",
    "ChildrenWatch",
    "Client",
    "Contender",
    "Counter",
    "CounterWatch",
    "DigestMD5",
    "DoubleBarrier",
    "Election",
    "Ensemble",
    "EnsembleConfig",
    "EnsembleMember",
    "EnsembleWatch",
    "FailedItem",
    "Group",
    "GroupWatch",
    "Held",
    "HeldWrite",
    "Job",
    "Kerberos",
    "LeaderWatch",
    "Lock",
    "Member",
    "Members",
    "Membership",
    "MultiLock",
    "NodeWatch",
    "Once",
    "Partition",
    "Queue",
    "QuorumAddress",
    "RWLock",
    "Random",
    "RawWatch",
    "ReadLock",
    "Registration",
    "RoundRobin",
    "Semaphore",
    "ServiceInstance",
    "ServiceProvider",
    "ServiceRegistration",
    "ServiceType",
    "ServiceWatch",
    "Services",
    "SizeWatch",
    "StateStream",
    "Statistics",
    "Sticky",
    "Take",
    "Transaction",
    "TreeWatch",
    "Value",
    "ValueWatch",
    "Versioned",
    "WriteLock",
    "connect",
    "rendezvous",
    *_codecs,
    *_errors,
    *_types,
]
