"""Tools for testing services on ZooKeeper: servers, faults, virtual time.

`corral.testing.plugin` has fixtures for pytest, and `corral.testing.enumerators` breaks a scenario at each
point where it can break.
"""

from corral.testing.embedded import EmbeddedServer as EmbeddedServer
from corral.testing.network.faults import Withheld as Withheld
from corral.testing.network.points import Message as Message
from corral.testing.network.points import MessageKind as MessageKind
from corral.testing.network.points import Moment as Moment
from corral.testing.network.points import Point as Point
from corral.testing.network.points import after as after
from corral.testing.network.points import after_event as after_event
from corral.testing.network.points import before as before
from corral.testing.network.points import committed as committed
from corral.testing.network.points import on_event as on_event
from corral.testing.network.proxy import FaultProxy as FaultProxy
from corral.testing.network.tcp import TcpProxy as TcpProxy
from corral.testing.network.triggers import BlackHole as BlackHole
from corral.testing.network.triggers import FaultHit as FaultHit
from corral.testing.servers.base import Server as Server
from corral.testing.servers.base import ServerOptions as ServerOptions
from corral.testing.servers.base import ServerUnavailable as ServerUnavailable
from corral.testing.servers.container import ContainerServer as ContainerServer
from corral.testing.servers.ensemble import LocalEnsemble as LocalEnsemble
from corral.testing.servers.local import LocalServer as LocalServer
from corral.testing.servers.secure import SecurePort as SecurePort
from corral.testing.virtual.loop import Deadlock as Deadlock
from corral.testing.virtual.loop import VirtualLoop as VirtualLoop

__all__ = [
    "BlackHole",
    "ContainerServer",
    "Deadlock",
    "EmbeddedServer",
    "FaultHit",
    "FaultProxy",
    "LocalEnsemble",
    "LocalServer",
    "Message",
    "MessageKind",
    "Moment",
    "Point",
    "SecurePort",
    "Server",
    "ServerOptions",
    "ServerUnavailable",
    "TcpProxy",
    "VirtualLoop",
    "Withheld",
    "after",
    "after_event",
    "before",
    "committed",
    "on_event",
]
