"""Subtrees, followed by one persistent recursive watch each: `TreeWatch` and `Cache`.

From the bottom up: `filter.py` decides which znodes belong to a tree; `reads.py` decides what to read next;
`copy.py` is the local copy and what each reader has still to receive; `merge.py` puts answers into the copy;
`follow.py` connects these with the session, by the states in `states.py` and the retries in `retry.py`.
"""
