"""SASL: how a client proves to each server who it is, and the server to the client."""
