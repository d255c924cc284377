"""What recipes are made of. A recipe imports from here, never from `corral.session` or `corral.wire`.

`ops` reads and writes znodes. `certain` repeats a write until its outcome is certain. `protected` creates a
znode that is found again when the answer is lost. `order` tells who came first. `line` is a queue of
ephemeral znodes. `held_node` is a znode that holds something, `lockable` whatever is acquired by one.
"""
