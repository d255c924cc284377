"""Real ZooKeeper servers for tests: on a local JVM, alone or as an ensemble, and in Docker."""
