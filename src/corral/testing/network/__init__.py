"""TCP proxies that break connections, and know ZooKeeper's messages or only bytes."""

LOOPBACK = "127.0.0.1"
"""The address that proxies and servers for tests listen on."""
