"""Asyncio-native coordination on Apache ZooKeeper: ``async with corral.connect() as zk:``."""

from .client import Client as Client
from .client import connect as connect
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .recipes.held import Held as Held
from .recipes.line import Contender as Contender
from .recipes.lock import Lock as Lock
from .session.state_stream import StateStream as StateStream
from .transaction import Transaction as Transaction
from .types import *  # noqa: F403
from .types import __all__ as _types
from .watch.node import NodeWatch as NodeWatch

__all__ = [
    "Client",
    "Contender",
    "Held",
    "Lock",
    "NodeWatch",
    "StateStream",
    "Transaction",
    "connect",
    *_errors,
    *_types,
]
