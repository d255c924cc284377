"""A port for TLS, the ``secureClientPort``, of a local server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

__all__ = ["SecurePort"]


@dataclass(frozen=True, kw_only=True)
class SecurePort:
    """What a server's port for TLS needs. Its files are PEM, and are read when the server starts.

    - ``certificate``: the server's private key (PKCS #8), its certificate, and those of intermediate
      authorities, in one file.
    - ``authorities``: the certificates of the authorities that may have signed a client's.
    - ``clients``: whether clients must present a certificate ("need"), may ("want"), or are not asked for one
      ("none"). It is then their identity of the scheme ``x509``.
    """

    certificate: str | os.PathLike[str]
    authorities: str | os.PathLike[str] | None = None
    clients: Literal["none", "want", "need"] = "none"

    def config(self, port: int, host: str) -> dict[str, str]:
        """The entries of ``zoo.cfg``. The server's plain port is then Netty's, too."""
        config = {
            "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
            "secureClientPort": str(port),
            "secureClientPortAddress": host,
            "ssl.keyStore.location": os.fspath(self.certificate),
            "ssl.keyStore.type": "PEM",
            "ssl.clientAuth": self.clients,
        }
        if self.authorities is not None:
            config["ssl.trustStore.location"] = os.fspath(self.authorities)
            config["ssl.trustStore.type"] = "PEM"
        return config
