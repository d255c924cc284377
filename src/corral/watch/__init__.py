"""Iterators over the state of what is watched, and caches. The server's watches: `corral.session.watches`.

`feed.py` and `reader.py` are the two halves of every watch: what all readers of a path in one client share,
and one reader's place in it. A module for each kind adds what is particular about it.
"""
