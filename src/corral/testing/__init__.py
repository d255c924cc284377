"""What the tests of a service on ZooKeeper need: real servers to run against, and faults to run into."""

from corral.testing._server import Server as Server
from corral.testing._server import ServerOptions as ServerOptions
from corral.testing._server import ServerUnavailable as ServerUnavailable
from corral.testing.containers import ContainerServer as ContainerServer
from corral.testing.local import LocalEnsemble as LocalEnsemble
from corral.testing.local import LocalServer as LocalServer
from corral.testing.proxy import TcpProxy as TcpProxy

__all__ = [
    "ContainerServer",
    "LocalEnsemble",
    "LocalServer",
    "Server",
    "ServerOptions",
    "ServerUnavailable",
    "TcpProxy",
]
