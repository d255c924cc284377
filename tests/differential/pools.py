"""The values that random programs are made of: few, so that steps interact."""

from __future__ import annotations

from program import CONTAINER, EPHEMERAL, EVER, OPEN, SEQUENTIAL, TTL, TTL_SEQUENTIAL, digest_id

HORSE = "\U0001f40e"
"""A character beyond U+FFFF, which is not allowed in paths."""

# Paths

NODES = ("~/a", "~/a", "~/a/a", "~/b", "~")
LEAVES = ("~/a/a", "~/b", "~/a", "~/a/b")
"""The nodes that are mostly created and deleted."""
DEEP = ("~/a/a/a", "~/b/a", "~/a/a/b")
FEW = ("~/a", "~/a/a", "~/b")
SEQUENCES = ("~/s", "~/a/s", "~/", "~/a/")
NUMBERED = (
    *("~/s0000000000", "~/s0000000001", "~/s0000000002", "~/0000000001"),
    *("~/a/s0000000000", "~/a/s0000000001", "~/a/0000000000"),
)
UNUSUAL = ("~/n\u00e9", "~/\u7bc0", "~/a/\u7bc0", "~/ ", "~/a:b", "~/zookeeper", "~/.a", "~/a.", "~/...")
BAD = (
    *("a", "a/b", "~/", "~/a/", "~//a", "~/a//b", "~/.", "~/..", "~/./a", "~/a/..", "~/a/../b", "//"),
    *("~/\0", "~/a\0/b", "~/\x01", "~/\x1f", "~/\x7f", "~/\x9f", "~/\ue000", "~/\uf8ff", "~/\ufff0"),
    *("~/\uffff", f"~/{HORSE}", f"~/x/{HORSE}"),
)
ROOT_OF_ALL = ("", "/")
"""It does not belong to the program alone; but it may be watched, and some requests for it are refused to
every client."""
PREFIXES = ("", "/", "~", "~/a", "~/a/", " ", "~/s")

# Data, versions, flags

DATA = (b"", b"x", b"yy", None, b"\0" * 3)
LIKELY_VERSIONS = (-1, -1, -1, -1, -1, 0, 1)
VERSIONS = (-1, 0, 1, 2, 3, -2, 2**31 - 1, -(2**31))
LIKELY_FLAGS = (0, 0, 0, EPHEMERAL, SEQUENTIAL, EPHEMERAL | SEQUENTIAL)
FLAGS = (0, EPHEMERAL, SEQUENTIAL, CONTAINER, TTL, TTL_SEQUENTIAL, 7, 8, -1, 2**31 - 1)
TTLS = (600_000, 1, 0, -1, 2**40 - 1, 2**40, 2**63 - 1, -(2**63))
WATCHER_TYPES = (1, 2, 3, 1, 2, 3, 0, 4, 5, -1)
BACK = (0, 1, 2, 3, 5, 8, EVER, -1, -5)

# Access control

READ, WRITE, CREATE, DELETE, ADMIN = 1, 2, 4, 8, 16
ANN, BOB = digest_id("ann", "secret"), digest_id("bob", "secret")
LIKELY_CREDENTIALS = (b"ann:secret", b"bob:secret")
CREDENTIALS = (
    *(b"ann:wrong", HORSE.encode() + b":x", b"a:b:c", b"nocolon", b"", b":", b"\xff\xfe:x", None),
    *LIKELY_CREDENTIALS,
)
BAD_SCHEMES = ("ip", "world", "auth", "nonsense", "", "sasl")
LIKELY_ACLS = (
    OPEN,
    ((READ, "world", "anyone"),),
    ((31 & ~READ, "world", "anyone"),),
    ((31 & ~DELETE, "world", "anyone"),),
    ((31 & ~CREATE, "world", "anyone"),),
    ((READ | ADMIN, "world", "anyone"), (WRITE | CREATE | DELETE, "digest", ANN)),
    ((31, "digest", ANN),),
    ((31, "auth", ""),),
)
ACLS = (
    ((31, "auth", "ignored"), (READ, "world", "anyone")),
    ((31 & ~ADMIN, "digest", ANN), (READ, "digest", BOB)),
    ((31, "ip", "127.0.0.1"),),
    ((31, "ip", "127.0.0.0/8"), (31, "ip", "127.0.0.0/8")),
    ((31, "ip", "10.0.0.1"), (READ, "world", "anyone")),
    ((CREATE | DELETE | ADMIN, "world", "anyone"), (READ, "ip", "127.0.0.2/31")),
    ((READ, "digest", f"{HORSE}:x"), (31, "world", "anyone")),
    ((0, "world", "anyone"),),
    ((READ, "world", "anyone"), (WRITE, "world", "anyone"), (READ, "world", "anyone")),
    ((ADMIN, "world", "anyone"),),
    ((63, "world", "anyone"),),
    ((-1, "world", "anyone"),),
)
BAD_ACLS = (
    (),
    None,
    *(
        ((31, scheme, name),)
        for scheme, names in {
            "world": ("nobody", ""),
            "digest": ("nocolon", "a:b:c", ":", "a:", ":b", ""),
            "ip": ("nonsense", "127.0.0.1/33", "127.0.0.1/-1", "127.0.0.1/x", "127.0.0.1/0", "127.0.0.1/"),
            "": ("",),
            "nonsense": ("x",),
            "super": ("x",),
            "sasl": ("x",),
            "x509": ("x",),
        }.items()
        for name in names
    ),
    ((31, "ip", "127.0.0"),),
    ((31, "ip", "256.0.0.1"),),
    ((31, "ip", ""),),
    ((31, "world", "anyone"), (31, "nonsense", "x")),
)
