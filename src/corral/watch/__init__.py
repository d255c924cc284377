"""Iterators over the state of what is watched. What the server's watches are is in `corral.session.watches`."""
