"""The core has no sockets, clock or event loop, and of corral it imports only the wire and its records."""

from __future__ import annotations

import ast
from pathlib import Path

from corral.testing import embedded

CORE = Path(embedded.__file__).parent
ALLOWED = {
    "__future__", "base64", "collections.abc", "dataclasses", "enum", "functools", "hashlib", "ipaddress",
    "random", "re", "struct", "time", "typing", "corral", "corral.types", "corral.wire",
}  # fmt: skip
PURE = [
    "acls", "codes", "database", "four_letter_words", "hashing", "requests", "server_connection", "sessions", "tree", "watches", "writes", "zookeeper",
]  # fmt: skip


def test_imports() -> None:
    """Each file of the core imports only what is listed."""
    for name in PURE:
        for node in ast.walk(ast.parse((CORE / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                modules = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module is not None
                modules = {node.module}
            else:
                continue
            assert all(module in ALLOWED or module.startswith("corral.wire.") for module in modules), (
                f"{name} imports {modules}"
            )


def test_no_clock_is_read() -> None:
    """`time` is imported to format dates, `random` to choose a seed and to draw from it."""
    for name in PURE:
        tree = ast.parse((CORE / f"{name}.py").read_text())
        used = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        assert {use for use in used if use.startswith("time.")} <= {"time.strftime", "time.gmtime"}
        assert {use for use in used if use.startswith("random.")} <= {"random.getrandbits", "random.Random"}
