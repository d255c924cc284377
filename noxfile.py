"""What is checked, and how: plain `nox` is everything that a change must pass.

Python 3.11 on asyncio's own loop runs every test. The other Pythons, uvloop and eager tasks run `CORE`: what
depends on the interpreter or the loop. They leave out what does not, and say so when they run.
"""

from __future__ import annotations

import os
import random

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "embedded", "tests", "examples", "loops", "pythons"]

PROJECT = nox.project.load_toml("pyproject.toml")
# What an interpreter or a loop can change: cancellation, loss, closing, and what is left behind.
CORE = [
    "tests/test_client.py",
    "tests/test_loss.py",
    "tests/recipes/test_lock_loss.py",
    "tests/watch/test_watch_leaving.py",
]
# What has nothing to do with a server, or runs on an embedded one as it is, or on real ones alone.
ONCE = ["session", "wire", "testing", "virtual", "differential", "interop", "nemesis"]
# Most tests on real servers wait, for a session to end or a delay to pass.
AT_ONCE = ("-n", "3", "--dist", "worksteal")
LEFT_OUT = "the core tests only: the tests session runs all of them, on Python 3.11 and asyncio's own loop"


def dependencies(group: str) -> list[str]:
    """The requirements of a dependency group."""
    return nox.project.dependency_groups(PROJECT, group)  # type: ignore[return-value]


@nox.session(python="3.11")
def tests(session: nox.Session) -> None:
    """Every test; arguments after -- go to pytest."""
    session.install(".", *dependencies("test"))
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("pytest", *AT_ONCE, "--ignore=tests/nemesis")
    # Alone: a worker that gets no processor for long is as one that was stopped, and may be told too late.
    session.run("pytest", "tests/nemesis")


@nox.session(python="3.11")
def embedded(session: nox.Session) -> None:
    """All that is promised to users, every cut and cancel included, on embedded servers in virtual time."""
    session.install(".", *dependencies("test"))
    rest = [f"--ignore=tests/{folder}" for folder in ONCE]
    session.run("pytest", "--zookeeper=embedded", "--loop=virtual", *(session.posargs or (*AT_ONCE, *rest)))


@nox.session(python="3.11")
def programs(session: nox.Session) -> None:
    """Not run by default: thousands of random programs on a real server and on the embedded one; the number
    after --, 5000 without."""
    session.install(".", *dependencies("test"))
    count = session.posargs[0] if session.posargs else "5000"
    session.run("pytest", "tests/differential", env={"CORRAL_DIFFERENTIAL_PROGRAMS": count})


@nox.session(python="3.11")
def nemesis(session: nox.Session) -> None:
    """Not run by default: workers take turns while servers and links fail, for as many seconds as the number
    after --, 170 without. The run tells its seed; CORRAL_NEMESIS_SEED has the same faults come again."""
    session.install(".", *dependencies("test"))
    seconds = session.posargs[0] if session.posargs else "170"
    seed = os.environ.get("CORRAL_NEMESIS_SEED") or str(random.randrange(1 << 32))
    session.run(
        "pytest", "tests/nemesis", env={"CORRAL_NEMESIS_SECONDS": seconds, "CORRAL_NEMESIS_SEED": seed}
    )


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    session.install(*dependencies("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Strict types in the package, and the public API as its users write it."""
    session.install(".", *dependencies("types"))
    session.run("mypy")
    session.run("mypy", "tests/typing", "examples")


@nox.session(python="3.11")
def examples(session: nox.Session) -> None:
    """Each example runs, ends by itself and finds what it checks to be so. Warnings are errors."""
    session.install(".")
    for name in ("workers", "lock_with_timeout", "reload_config", "service_lifespan", "break_the_network"):
        session.run("python", "-X", "dev", "-W", "error", f"examples/{name}.py")
    session.install("pytest")
    session.run("pytest", "examples/testing")


@nox.session(python=["3.11", "3.12"])
def loops(session: nox.Session) -> None:
    """The core tests on uvloop (3.11) and with eager tasks (3.12)."""
    loop = "uvloop" if session.python == "3.11" else "eager"
    session.install(".", *dependencies("test"))
    session.log(LEFT_OUT)
    session.run("pytest", f"--loop={loop}", *AT_ONCE, *CORE)


@nox.session(python=["3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """The core tests on the other Pythons."""
    session.install(".", *dependencies("test"))
    session.log(LEFT_OUT)
    session.run("pytest", *AT_ONCE, *CORE)
