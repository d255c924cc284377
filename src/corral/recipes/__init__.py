"""Recipes on a session's nodes. Each file is one of them, and reads as the ZooKeeper recipe."""
