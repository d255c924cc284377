"""Async iterators over the state of znodes, and caches. `corral.session.watch_registry` owns the server's
watches.

A watch has two halves. A *feed* (`shared.py`) is what all readers of one path in a client share: the
server's watch and the newest state. A *reader* (`reader.py`) is the iterator that one user holds. `read.py`
has the feed of a single read, which `node.py`, `children.py` and `existence.py` specialize; `raw.py` passes
the server's events through; `tree/` follows subtrees."""
