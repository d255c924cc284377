"""What is checked, and how: plain `nox` is everything that a change must pass.

There are two halves: `real` mostly waits, for servers; `python` mostly computes, in virtual time. Each has an
environment for each of its Pythons.

On Python 3.11 every test runs in virtual time and on a real server; of tests with many cases only a part,
other ones in each run (`tests/sampling.py`). `nox -s embedded` and `nox -s everything` run all. The other
Pythons, uvloop, eager tasks, and other versions of the dependencies run `CORE`: what these can change.

Each step has a session of its own, too: `nox -s embedded -- tests/recipes`; arguments go to pytest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "real", "python"]

PROJECT = nox.project.load_toml("pyproject.toml")
# What an interpreter, a loop or a dependency can change: cancellation, loss, closing, what is left behind.
CORE = (
    "tests/test_client.py",
    "tests/test_loss.py",
    "tests/recipes/test_lock_loss.py",
    "tests/watch/test_watch_leaving.py",
)
# What a release of ZooKeeper can change, beside these.
VERSIONS = ("tests/test_releases.py", "tests/differential", "tests/points")
# What needs the processor for itself: a client that gets none for long is told of a loss too late, or loses
# what it holds.
ALONE = ("tests/nemesis", "tests/test_client.py::test_a_lock_is_kept_under_load")
# What has nothing to do with a server, or runs on an embedded one as it is, or on real ones alone.
ONCE = (
    "beside", "session", "wire", "testing", "virtual", "differential", "interop", "nemesis", "fuzz",
    "test_docs.py",
)  # fmt: skip
EXAMPLES = (
    "workers", "lock_with_timeout", "reload_config", "service_lifespan", "discovery", "run_once", "job_queue",
    "worker_pool", "break_the_network",
)  # fmt: skip
# In virtual time also every cancel of a lock: its tests count turns of the loop, and in real time a server
# may answer within them. Left out is a test that takes real time all the same, more than all the others.
CORE_VIRTUAL = (
    *CORE,
    "tests/recipes/test_lock_cancel.py",
    "tests/points/test_points.py::test_every_cancel[lock, no line]",
    "tests/points/test_points.py::test_every_cancel[lock, handed over]",
    "tests/points/test_points.py::test_every_cancel[lock, its reply is lost]",
    "--deselect=tests/test_client.py::test_a_lock_is_kept_under_load",
)
# uvloop differs in what becomes of a connection whose opening is cancelled.
CORE_UVLOOP = (*CORE, "tests/points/test_points.py::test_every_cancel[connect]")
# What changes how anyio and asyncio behave, only by being installed.
BESIDE = ("trio", "sniffio", "exceptiongroup", "uvloop")
AT_ONCE = ("-n", "3", "--dist", "worksteal")
# Many tests on real servers wait, for a session to end or a server to start.
AT_ONCE_ON_REAL_SERVERS = ("-n", "6", "--dist", "worksteal")
# All points of one scenario take minutes on a real server.
PATIENT = "--timeout=600"
EMBEDDED = "--zookeeper=embedded"
VIRTUAL = (EMBEDDED, "--loop=virtual")
LEFT_OUT = "the core tests only: Python 3.11 on asyncio's own loop runs all of them"


def dependencies(group: str) -> list[str]:
    """The requirements of a dependency group."""
    return nox.project.dependency_groups(PROJECT, group)  # type: ignore[return-value]


def lowest(requirements: Iterable[str]) -> list[str]:
    """The same packages, each at the lowest version that is accepted."""
    pins = []
    for requirement in map(Requirement, requirements):
        [least] = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        pins.append(f"{requirement.name}=={least}")
    return pins


def few_random_ones() -> dict[str, str]:
    """The environment of a run with few random programs and few liars, other ones each time. A failure names
    its seed, which gives the same again."""
    return {
        "CORRAL_DIFFERENTIAL_PROGRAMS": "150",
        "CORRAL_DIFFERENTIAL_SEED": str(random.randrange(1 << 16)),
        "CORRAL_FUZZ_SEEDS": "40",
        "CORRAL_FUZZ_FIRST": str(random.randrange(1 << 32)),
        "PYTHONHASHSEED": "0",
    }


def core(session: nox.Session, loop: str, env: dict[str, str] | None = None) -> None:
    """The core tests on the embedded server and an event loop."""
    session.log(LEFT_OUT)
    chosen = {"virtual": CORE_VIRTUAL, "uvloop": CORE_UVLOOP}.get(loop, CORE)
    session.run("pytest", EMBEDDED, f"--loop={loop}", "--points=quarter", *AT_ONCE, *chosen, env=env)


# The steps


def run_types(session: nox.Session) -> None:
    session.run("mypy")
    session.run("mypy", "tests/typing", "examples")


def run_examples(session: nox.Session) -> None:
    for name in EXAMPLES:
        session.run("python", "-X", "dev", "-W", "error", f"examples/{name}.py")


def run_embedded(session: nox.Session, points: str) -> None:
    rest = (f"--ignore=tests/{name}" for name in ONCE)
    session.run("pytest", *VIRTUAL, f"--points={points}", *AT_ONCE, *rest)


def run_tests(session: nox.Session, points: str) -> None:
    env = {} if points == "all" else few_random_ones()
    # More than a hundred servers start, each with a quarter less processor time.
    env["CORRAL_ZOOKEEPER_CLASSES"] = os.path.join(session.virtualenv.location, "zookeeper-classes")
    session.run("python", "tests/archive_classes.py", env["CORRAL_ZOOKEEPER_CLASSES"])
    others = (f"--deselect={each}" if "::" in each else f"--ignore={each}" for each in ALONE)
    session.run("pytest", f"--points={points}", PATIENT, *AT_ONCE_ON_REAL_SERVERS, *others, env=env)
    session.run("pytest", *ALONE, env=env)


def run_beside(session: nox.Session) -> None:
    session.install("--upgrade", "anyio", *BESIDE)
    # hypothesis loads a plugin of trio's, which warns.
    env = {"HYPOTHESIS_NO_PLUGINS": "1"}
    session.run("pytest", EMBEDDED, "tests/beside", env=env)
    core(session, "virtual", env)


def run_oldest(session: nox.Session) -> None:
    session.install(*lowest(PROJECT["project"]["dependencies"]))
    core(session, "virtual")


# What `nox` runs


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    session.install(*dependencies("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python="3.11")
def real(session: nox.Session) -> None:
    """Everything that takes real time: the examples, uvloop, and the tests on real servers."""
    session.install(".")
    run_examples(session)  # nothing else is installed yet: they need corral alone
    session.install(*dependencies("test"))
    run_tests(session, "twentieth")
    core(session, "uvloop")


@nox.session(python=["3.11", "3.13", "3.12"])
def python(session: nox.Session) -> None:
    """Everything else that is checked with a Python. Only the last step takes real time."""
    session.install(".", *dependencies("types" if session.python == "3.11" else "test"))
    if session.python == "3.11":
        run_types(session)
        run_embedded(session, "eighth")
        run_oldest(session)
        run_beside(session)
        return
    core(session, "virtual")
    if session.python == "3.12":
        core(session, "eager")


# Steps by themselves


@nox.session(python="3.11")
def tests(session: nox.Session) -> None:
    """Every test on a real server, of those with many cases a part; or what is given after --."""
    session.install(".", *dependencies("test"))
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        run_tests(session, "twentieth")


@nox.session(python="3.11")
def everything(session: nox.Session) -> None:
    """Every test and every case on a real server. Not run by default: it takes long."""
    session.install(".", *dependencies("test"))
    run_tests(session, "all")


@nox.session(python="3.11")
def embedded(session: nox.Session) -> None:
    """All that is promised to users, with every cut and cancel, on embedded servers in virtual time."""
    session.install(".", *dependencies("test"))
    if session.posargs:
        session.run("pytest", *VIRTUAL, *session.posargs)
    else:
        run_embedded(session, "all")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Strict types in the package, and the public API as its users write it."""
    session.install(".", *dependencies("types"))
    run_types(session)


@nox.session(python="3.11")
def examples(session: nox.Session) -> None:
    """Each example runs, ends by itself and finds what it checks to be so. Warnings are errors.
    (tests/test_docs.py runs the example of a service with tests.)"""
    session.install(".")
    run_examples(session)


@nox.session(python="3.11")
def beside(session: nox.Session) -> None:
    """The core tests with trio and sniffio installed, which change what anyio does; and corral under trio."""
    session.install(".", *dependencies("test"))
    run_beside(session)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The core tests with the lowest versions of the dependencies that pyproject.toml accepts."""
    session.install(".", *dependencies("test"))
    run_oldest(session)


# For as long as one likes


@nox.session(python="3.11")
def programs(session: nox.Session) -> None:
    """Not run by default: thousands of random programs on a real server and on the embedded one; the number
    after --, 5000 without."""
    session.install(".", *dependencies("test"))
    count = session.posargs[0] if session.posargs else "5000"
    session.run("pytest", "tests/differential", env={"CORRAL_DIFFERENTIAL_PROGRAMS": count})


@nox.session(python="3.11")
def versions(session: nox.Session) -> None:
    """Not run by default: what a release of ZooKeeper can change, on each that is given with the class path
    of its jars: nox -s versions -- "3.9=/opt/zk39/lib/*", or separated by ; in CORRAL_ZOOKEEPER_CLASSPATHS.
    On releases before 3.6, which have no persistent watches, only that it is said what they lack."""
    given = session.posargs or os.environ.get("CORRAL_ZOOKEEPER_CLASSPATHS", "").split(";")
    classpaths = dict(each.split("=", 1) for each in given if "=" in each)
    if not classpaths:
        session.error("no class path of a ZooKeeper is given; CONTRIBUTING.md says how to get one")
    session.install(".", *dependencies("test"))
    for release, classpath in classpaths.items():
        is_old = tuple(map(int, release.split("."))) < (3, 6)
        chosen = ("tests/test_releases.py",) if is_old else (*CORE, *VERSIONS)
        session.log(f"ZooKeeper {release}: {classpath}")
        session.run(
            "pytest", "--zookeeper=local", "--points=eighth", PATIENT, *AT_ONCE_ON_REAL_SERVERS, *chosen,
            env={"CORRAL_ZOOKEEPER_CLASSPATH": classpath},
        )  # fmt: skip


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
def fuzz(session: nox.Session) -> None:
    """Not run by default: a man in the middle lies to clients, in as many runs as the number after --, 20000
    without. CORRAL_FUZZ_FIRST is the first seed; a failure names its own."""
    session.install(".", *dependencies("test"))
    count = session.posargs[0] if session.posargs else "20000"
    first = os.environ.get("CORRAL_FUZZ_FIRST") or str(random.randrange(1 << 32))
    env = {"CORRAL_FUZZ_SEEDS": count, "CORRAL_FUZZ_FIRST": first, "PYTHONHASHSEED": "0"}
    session.run("pytest", *AT_ONCE, "tests/fuzz", env=env)


@nox.session(python="3.11")
def kerberos(session: nox.Session) -> None:
    """Not run by default, since gssapi is built from source, for two minutes: SASL with Kerberos, on a real
    KDC and a real server. It needs krb5-kdc, krb5-admin-server, krb5-user and libkrb5-dev."""
    session.install(".[kerberos]", *dependencies("test"))
    session.run("pytest", "tests/sasl")
