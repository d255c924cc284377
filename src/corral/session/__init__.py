"""One ZooKeeper session over many connections. `machine` is its law; the rest carries it out."""
