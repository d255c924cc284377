"""A Kerberos server (MIT's krb5kdc) on loopback, as an ordinary child process, and its clients' files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from corral.testing.servers.ports import free_ports

REALM = "CORRAL.TEST"
TOOLS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit", "klist")
LIMIT = 30.0
"""Seconds for each tool."""


def missing() -> str | None:
    """What is missing for tests with Kerberos, if anything."""
    try:
        import gssapi  # noqa: F401
    except ImportError:
        return "the library gssapi is not installed (corral[kerberos])"
    tools = [tool for tool in TOOLS if _found(tool) is None]
    if tools:
        return f"{', '.join(tools)} not found (krb5-kdc, krb5-admin-server, krb5-user)"
    return None


def _found(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Kdc:
    """A realm with some principals; `keytab` has the keys of all of them."""

    def __init__(self, directory: Path, principals: tuple[str, ...]) -> None:
        self.directory = directory
        (self.port,) = free_ports(1)
        self.config = self.client_config("krb5.conf", self.port)
        self.keytab = directory / "all.keytab"
        self._principals = principals
        self._process: subprocess.Popen[bytes] | None = None

    def client_config(self, name: str, port: int) -> Path:
        """A configuration for clients whose KDC listens on this port."""
        path = self.directory / name
        path.write_text(
            f"""[libdefaults]
  default_realm = {REALM}
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
[realms]
  {REALM} = {{
    kdc = 127.0.0.1:{port}
  }}
"""
        )
        return path

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the KDC's tools."""
        return {
            **os.environ,
            "KRB5_CONFIG": str(self.config),
            "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf"),
        }

    def start(self) -> None:
        """Make the realm, and start the KDC."""
        d = self.directory
        (d / "kdc.conf").write_text(
            f"""[realms]
  {REALM} = {{
    database_name = {d}/principal
    key_stash_file = {d}/stash
    acl_file = {d}/acl
    kdc_listen = 127.0.0.1:{self.port}
    kdc_tcp_listen = 127.0.0.1:{self.port}
    supported_enctypes = aes256-cts-hmac-sha1-96:normal
  }}
[logging]
  kdc = FILE:{d}/kdc.log
"""
        )
        self.run("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
        commands = [f"addprinc -randkey {name}" for name in self._principals]
        commands += [f"ktadd -k {self.keytab} {name}" for name in self._principals]
        self.run("kadmin.local", "-r", REALM, input="\n".join([*commands, "quit", ""]))
        with open(d / "kdc.out", "wb") as out:
            self._process = subprocess.Popen(
                [_found("krb5kdc") or "krb5kdc", "-n", "-r", REALM],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the KDC does not start: {(d / 'kdc.out').read_text()}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def run(self, tool: str, *arguments: str, input: str = "") -> None:
        """Run one of the tools."""
        done = subprocess.run(
            [_found(tool) or tool, *arguments],
            env=self.environment,
            input=input.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} failed: {done.stdout.decode()}")

    def kinit(self, principal: str, ccache: str, life: str = "10m") -> None:
        """Get a ticket for a principal into a credentials cache."""
        self.run("kinit", "-k", "-t", str(self.keytab), "-l", life, "-c", ccache, principal)

    def has_ticket(self, ccache: str) -> bool:
        """Whether a cache has a ticket that has not run out."""
        try:
            self.run("klist", "-s", "-c", ccache)
        except RuntimeError:
            return False
        return True
