"""What recipes are made of. A recipe imports from here, never from `corral.session` or `corral.wire`.

`ops` reads and writes znodes. `certain` repeats a write until its outcome is certain. `protected` creates a
znode that is found again when the answer is lost. `order` tells who came first. `line` is a queue of
ephemeral znodes. `holding` is a znode of ours that holds something, and `held` what users see of it.
`lockable` is whatever is acquired by such a znode. `marks` applies writes exactly once, and `versioned` is a
znode with a value that many clients write.
"""
