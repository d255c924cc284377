"""An embedded ZooKeeper server: its core, without I/O (`zookeeper`), and the server around the core
(`server`)."""

from .server import EmbeddedServer as EmbeddedServer

__all__ = ["EmbeddedServer"]
