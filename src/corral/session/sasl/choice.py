"""The mechanism for the credentials that the user gives."""

from __future__ import annotations

from corral.errors import UsageTypeError

from .base import Mechanism
from .digest import DigestMD5, DigestMechanism
from .kerberos import Kerberos, KerberosMechanism

__all__ = ["mechanism_of"]


def mechanism_of(sasl: DigestMD5 | Kerberos | None) -> Mechanism | None:
    """The mechanism of one client. Raises `UsageTypeError`, which does not show what may be secret."""
    if sasl is None:
        return None
    if isinstance(sasl, DigestMD5):
        return DigestMechanism(sasl)
    if isinstance(sasl, Kerberos):
        return KerberosMechanism(sasl)
    raise UsageTypeError(
        "sasl must be corral.DigestMD5(user, secret) or corral.Kerberos(), or None, "
        f"not a value of type {type(sasl).__name__}"
    )
