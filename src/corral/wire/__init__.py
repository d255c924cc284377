"""Bytes and messages, without I/O and without time. Only this package imports aiozk, for its declarations."""
