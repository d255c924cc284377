"""Finds Java and ZooKeeper's jars on this machine, and builds the command that runs a server.

The jars are looked for in this order: the class path in ``CORRAL_ZOOKEEPER_CLASSPATH``; Debian's and Ubuntu's
package ``zookeeper``; an unpacked Apache release in ``ZOOKEEPER_HOME``. Nothing is installed or downloaded.

``CORRAL_ZOOKEEPER_CLASSES`` may name an archive of loaded classes, which a JVM has made for the same Java and
jars (``-XX:ArchiveClassesAtExit``): with it, servers start with a quarter less processor time. One that does
not fit, or is missing, is not used.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from .base import ServerUnavailable, Settings

__all__ = ["find_classpath", "find_java", "kill_with_parent", "server_command", "setpriv"]

_INSTALL = "apt-get install -y --no-install-recommends zookeeper"
_DEBIAN_JARS = Path("/usr/share/java")


def server_command(
    java: str | None, settings: Settings, config: Path, classpath: str | None = None
) -> list[str]:
    """The command that runs a server with the configuration file `config`; `ServerUnavailable` without Java
    or the jars. `classpath` is the one to use in place of that which is found."""
    return [
        *kill_with_parent(),
        find_java(java),
        f"-Xmx{settings.heap}",
        # A JVM that lives for seconds starts fastest with the C1 compiler and the serial collector.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xshare:auto",
        *_shared_classes(),
        "-XX:-UsePerfData",
        # For the logger of Debian's class path; an Apache release configures its own.
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
        "-Dzookeeper.root.logger=INFO,CONSOLE",
        "-Djava.net.preferIPv4Stack=true",
        *(f"-D{name}={value}" for name, value in settings.properties().items()),
        "-cp",
        classpath or find_classpath(),
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        str(config),
    ]


def _shared_classes() -> list[str]:
    archive = os.environ.get("CORRAL_ZOOKEEPER_CLASSES")
    return [f"-XX:SharedArchiveFile={archive}"] if archive else []


def find_java(java: str | None) -> str:
    """The path of `java`, if given, else of ``JAVA_HOME``'s Java, else of the first on the search path."""
    if java is None:
        home = os.environ.get("JAVA_HOME")
        java = str(Path(home, "bin", "java")) if home else "java"
    found = shutil.which(java)
    if found is None:
        raise ServerUnavailable(
            f"there is no Java to run at {java!r}; install one, with ZooKeeper: {_INSTALL}"
        )
    return found


def find_classpath() -> str:
    """The class path of a ZooKeeper server, with a logger that writes to the console."""
    classpath = os.environ.get("CORRAL_ZOOKEEPER_CLASSPATH")
    if classpath:
        return classpath
    # The manifest of Debian's jar names the jars that it needs, except for a logger, and for two of Netty's
    # that a server with a secure port needs.
    debian = [_DEBIAN_JARS / "zookeeper.jar", _DEBIAN_JARS / "slf4j-simple.jar"]
    if all(jar.exists() for jar in debian):
        netty = [_DEBIAN_JARS / "netty-codec.jar", _DEBIAN_JARS / "netty-resolver.jar"]
        return os.pathsep.join(map(str, [*debian, *netty]))
    home = os.environ.get("ZOOKEEPER_HOME")
    if home and any(Path(home, "lib").glob("zookeeper-*.jar")):
        return os.pathsep.join((str(Path(home, "conf")), str(Path(home, "lib", "*"))))
    raise ServerUnavailable(
        f"there are no jars of ZooKeeper in {_DEBIAN_JARS} or $ZOOKEEPER_HOME/lib; install them: {_INSTALL}; "
        "or set CORRAL_ZOOKEEPER_CLASSPATH"
    )


def kill_with_parent() -> list[str]:
    """A command prefix that makes the kernel kill the process when our process dies; empty where unavailable.

    To the kernel, the parent is the thread that starts the child. The prefix is therefore used in the main
    thread only: a server that was started by a short-lived thread would die with that thread.
    """
    return setpriv() if threading.current_thread() is threading.main_thread() else []


@functools.cache
def setpriv() -> list[str]:
    """util-linux's ``setpriv`` with the option for that; empty if this machine does not have it."""
    found = shutil.which("setpriv") if sys.platform == "linux" else None
    if found is None:
        return []
    command = [found, "--pdeathsig", "KILL", "--"]
    # Tried out, because BusyBox has a setpriv without this option.
    tried = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True)
    return command if tried.returncode == 0 else []
