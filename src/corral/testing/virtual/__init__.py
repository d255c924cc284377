"""An event loop with virtual time, and the in-memory network that it runs on."""
