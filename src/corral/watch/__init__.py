"""Iterators over the state of what is watched. The server's watches are in `corral.session.watches`."""
