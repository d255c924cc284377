"""What the tests of a service on ZooKeeper need: real servers to run against, and faults to run into."""

from corral.testing._server import Server as Server
from corral.testing._server import ServerOptions as ServerOptions
from corral.testing._server import ServerUnavailable as ServerUnavailable
from corral.testing.containers import ContainerServer as ContainerServer
from corral.testing.embedded import EmbeddedServer as EmbeddedServer
from corral.testing.local import LocalEnsemble as LocalEnsemble
from corral.testing.local import LocalServer as LocalServer
from corral.testing.proxy import FaultProxy as FaultProxy
from corral.testing.proxy import Kind as Kind
from corral.testing.proxy import Message as Message
from corral.testing.proxy import Moment as Moment
from corral.testing.proxy import Point as Point
from corral.testing.proxy import after as after
from corral.testing.proxy import after_event as after_event
from corral.testing.proxy import before as before
from corral.testing.proxy import committed as committed
from corral.testing.proxy import on_event as on_event
from corral.testing.tcp import TcpProxy as TcpProxy
from corral.testing.virtual import Deadlock as Deadlock
from corral.testing.virtual import VirtualLoop as VirtualLoop

__all__ = [
    "ContainerServer",
    "Deadlock",
    "EmbeddedServer",
    "FaultProxy",
    "Kind",
    "LocalEnsemble",
    "LocalServer",
    "Message",
    "Moment",
    "Point",
    "Server",
    "ServerOptions",
    "ServerUnavailable",
    "TcpProxy",
    "VirtualLoop",
    "after",
    "after_event",
    "before",
    "committed",
    "on_event",
]
