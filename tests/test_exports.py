"""The public names: exported once, documented, and equal to the drawings and tables."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from corral import errors, paths

PUBLIC = sorted(corral.__all__)


def modules() -> list[types.ModuleType]:
    """All modules of the package."""
    found = [info.name for info in pkgutil.walk_packages(corral.__path__, "corral.")]
    assert "corral.session.machine" in found
    return [corral, *(importlib.import_module(name) for name in found)]


MODULES = {module.__name__: module for module in modules()}
LIBRARY = {name: module for name, module in MODULES.items() if not name.startswith("corral.testing")}


def test_exports_are_what_is_there() -> None:
    """`corral.__all__` has every public name of the package once, and the package has no others except
    modules."""
    there = {
        name
        for name, value in vars(corral).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert len(PUBLIC) == len(set(PUBLIC))
    assert set(PUBLIC) == there


@pytest.mark.parametrize("module", ["corral.errors", "corral.types"])
def test_modules_of_public_names_are_exported_whole(module: str) -> None:
    """Every error and every record is public, and is in its module's `__all__`, which is in alphabetical
    order."""
    names = MODULES[module].__all__
    own = {
        name
        for name, value in vars(MODULES[module]).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module
        and inspect.isclass(value)
    }
    hidden = {"ChrootedPath"}  # for modules that name paths in errors, not for users
    assert own - hidden <= set(names) <= set(PUBLIC)


def test_all_is_right_in_every_module() -> None:
    """Each name in an `__all__` is defined, and named there once."""
    for name, module in MODULES.items():
        exported = getattr(module, "__all__", [])
        assert len(exported) == len(set(exported)), name
        assert [each for each in exported if not hasattr(module, each)] == [], name


def classes_in(annotation: Any) -> Iterator[type]:
    """Our classes that an annotation, as text, names."""
    for word in re.findall(r"[A-Za-z_][A-Za-z_.]*", str(annotation)):
        name = word.rpartition(".")[2]
        for module in LIBRARY.values():
            found = vars(module).get(name)
            if inspect.isclass(found) and found.__module__.startswith("corral."):
                yield found


@pytest.mark.parametrize("name", PUBLIC)
def test_what_users_get_is_public(name: str) -> None:
    """Every type that a public function or method returns, or a public property has, is public."""
    value = getattr(corral, name)
    calls = [value] if inspect.isfunction(value) else [member for _, member in public_members(value)]
    for call in calls:
        function = call.fget if isinstance(call, property) else inspect.unwrap(call)
        annotation = inspect.get_annotations(function).get("return", "")
        hidden = {cls.__name__ for cls in classes_in(annotation)} - set(PUBLIC)
        assert hidden == set(), f"{function.__qualname__} returns {annotation}"


def public_members(cls: Any) -> list[tuple[str, Any]]:
    """The public methods and properties of a class that are defined in this package."""
    if not inspect.isclass(cls):
        return []
    found = []
    for base in cls.__mro__:
        if not base.__module__.startswith("corral"):
            continue
        for name, member in vars(base).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not name.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                found.append((f"{base.__qualname__}.{name}", function))
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_documented(name: str) -> None:
    """Every public name has its own docstring, and so has each of its public methods and properties;
    enumerations and records document each value and field."""
    value = getattr(corral, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return  # a constant: `test_constants_are_documented` checks it
    assert value.__doc__, f"{name} has no docstring"
    if inspect.isclass(value):
        assert value.__doc__ != getattr(value.__base__, "__doc__", None), f"{name} has its base's docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has a made-up docstring"
    assert [member for member, each in public_members(value) if not each.__doc__] == []


def test_constants_are_documented() -> None:
    """A constant is followed by its docstring, where documentation tools and readers expect it."""
    source = inspect.getsource(corral.types) + inspect.getsource(corral.codecs)
    constants = [name for name in PUBLIC if not callable(getattr(corral, name))]
    assert constants
    for name in constants:
        assert re.search(rf'^{name}\b.*\n"""', source, re.MULTILINE), name


def test_access_control_lists_are_documented() -> None:
    """Every name of `corral.acl` has a docstring, is in the table of docs/api.md, and in the typed examples."""
    source = inspect.getsource(corral.acl)
    rows = re.findall(r"^\| `acl\.(\w+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(corral.acl.__all__)
    for name in rows:
        value = getattr(corral.acl, name)
        assert value.__doc__ if callable(value) else re.search(rf'^{name}\b.*\n"""', source, re.MULTILINE)
        assert f"corral.acl.{name}" in TESTED_TYPES


@pytest.mark.parametrize("name", ["State", "EventKind", "Stat"])
def test_each_value_is_documented(name: str) -> None:
    """Each member of an enumeration and each field of a record is documented."""
    cls = getattr(corral, name)
    source = inspect.getsource(cls)
    values = list(cls.__members__) if issubclass(cls, enum.Enum) else cls._fields
    for value in values:
        assert re.search(rf'^    {value}\b.*\n    """', source, re.MULTILINE), f"{name}.{value}"


@pytest.mark.parametrize("name", LIBRARY)
def test_every_module_is_documented(name: str) -> None:
    """Every module has a docstring, and so has every public class and function in it."""
    module = LIBRARY[name]
    assert module.__doc__, name
    public = [
        value
        for each, value in vars(module).items()
        if not each.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    ]
    assert [value.__qualname__ for value in public if not value.__doc__] == []


# The drawing of the errors


def drawn() -> dict[str, tuple[str | None, str]]:
    """Each class of the drawing in `errors`: its base in the drawing, and its description."""
    assert errors.__doc__ is not None
    parents: list[str] = []
    found: dict[str, tuple[str | None, str]] = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+(?:  [A-Z]\w+)*)(.*)$", line)
        if match is None:
            continue
        names = match[2].split()
        is_root = "──" not in line
        depth = 0 if is_root else len(match[1]) // 4 + 1
        del parents[depth:]
        for name in names:
            found[name] = (parents[-1] if parents else None, match[3].strip())
        parents.append(names[0])
    return found


def test_the_drawing_of_the_errors_is_right() -> None:
    """The drawing in `corral.errors` has every public error, below the class that it is derived from."""
    tree = drawn()
    assert set(tree) == set(errors.__all__)
    for name, (parent, _) in tree.items():
        cls = getattr(errors, name)
        bases = [base for base in cls.__mro__[1:] if base.__module__ == "corral.errors"]
        assert (bases[0].__name__ if bases else None) == parent, name


def test_what_the_drawing_says_of_builtins_is_right() -> None:
    """Exactly the errors that are drawn as "also ValueError" are ValueErrors."""
    for name, (parent, said) in drawn().items():
        also = re.search(r"also (\w+)", said)
        inherited = parent is not None and issubclass(
            getattr(errors, parent), ValueError | TypeError | RuntimeError
        )
        builtin = [
            base for base in (ValueError, TypeError, RuntimeError) if issubclass(getattr(errors, name), base)
        ]
        if also:
            assert [base.__name__ for base in builtin] == [also[1]], name
        elif not inherited:
            assert builtin == [], name


def test_every_error_is_reached_from_its_code() -> None:
    """Each error code of the server makes its error class, which names the operation and the path, and is a
    `ServerError`; any other code makes an `OtherServerError` with that code."""
    with_code = [
        cls
        for cls in map(vars(errors).get, errors.__all__)
        if inspect.isclass(cls) and issubclass(cls, errors.ServerError) and cls.code
    ]
    assert len({cls.code for cls in with_code}) == len(with_code) > 8
    for cls in with_code:
        error = errors.server_error(cls.code, "get", "/a")
        assert type(error) is cls
        assert str(error).startswith("get '/a': ")
        assert (error.operation, error.path) == ("get", "/a")
    other = errors.server_error(-4242, "get", "/a")
    assert type(other) is errors.OtherServerError
    assert other.code == -4242
    assert "-4242" in str(other)


@pytest.mark.parametrize(
    ("operation", "needed"),
    [("get", "READ"), ("set", "WRITE"), ("create", "CREATE"), ("delete", "DELETE"), ("set_acl", "ADMIN")],
)
def test_a_permission_that_is_not_granted_is_named(operation: str, needed: str) -> None:
    """NoAuth names the permission that the operation needs, if it is only one."""
    error = errors.server_error(errors.NoAuth.code, operation, "/a/b")
    assert f"the ACL does not grant {needed};" in str(error)
    assert "the ACL does not allow it" in str(errors.server_error(errors.NoAuth.code, "watch", "/a/b"))


def test_a_path_with_a_chroot_is_a_plain_path_in_the_error() -> None:
    """The path of an error is the one that the caller passed, although the message also names the chroot."""
    error = errors.server_error(errors.NoNode.code, "get", paths.named("/app", "/a"))
    assert str(error) == "get '/a': no such znode (below the chroot '/app')"
    assert error.path == "/a"
    assert type(error.path) is str


# What users see: the documents, the types and the classes agree


ROOT = Path(__file__).parent.parent
TESTED_TYPES = (ROOT / "tests" / "typing" / "api.py").read_text()


def table_rows(document: str) -> Iterator[tuple[list[str], str]]:
    """The rows of a document's tables: the names in the first column (none in a row that continues the
    previous one), and the last column."""
    for line in (ROOT / "docs" / document).read_text().splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield re.findall(r"`(\w+)`", cells[0]), cells[-1]


def documented() -> dict[str, set[str]]:
    """Each name in docs/api.md and docs/errors.md, with the members in the tables."""
    found: dict[str, set[str]] = {}
    names: list[str] = []
    for row, last in [*table_rows("api.md"), *table_rows("errors.md")]:
        names = row or names
        for name in names:
            found.setdefault(name, set()).update(re.findall(r"`(\w+)`", last))
    return found


DOCUMENTED = documented()


def visible(cls: type) -> set[str]:
    """The members of a class and its instances that completion offers, without those of Python's own
    classes."""
    found: set[str] = set()
    for base in cls.__mro__:
        if base.__module__ in ("builtins", "enum"):
            continue
        found.update(vars(base), getattr(base, "__annotations__", {}))
        if base.__module__.startswith("corral"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            found.update(
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            )
    return {name for name in found if not name.startswith("_")}


def test_the_documents_have_every_public_name() -> None:
    """The tables of docs/api.md and docs/errors.md have every public name, and no other."""
    assert sorted(set(PUBLIC) - set(DOCUMENTED)) == []
    assert sorted(set(DOCUMENTED) - set(PUBLIC)) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_what_completion_shows_is_documented(name: str) -> None:
    """Each member of a public class is in the tables, for the class or a base of it, or is listed as
    internal; the tables have no member that does not exist."""
    cls = getattr(corral, name)
    if not inspect.isclass(cls):
        return
    bases = [base.__name__ for base in cls.__mro__]
    listed = set().union(*(DOCUMENTED.get(base, set()) for base in bases))
    if issubclass(
        cls, corral.CorralError
    ):  # the last column of their tables is prose, apart from the attributes
        assert sorted(visible(cls) - listed) == []
    else:
        assert sorted(visible(cls)) == sorted(listed)


def test_the_types_use_every_public_name() -> None:
    """tests/typing/api.py has every public name and every documented member, so their types are checked as users see
    them."""
    tree = ast.parse(TESTED_TYPES)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert sorted(set(PUBLIC) - attributes) == []
    members = {
        member
        for name in PUBLIC
        if inspect.isclass(cls := getattr(corral, name))
        for member in DOCUMENTED[name] & visible(cls)
    }
    assert len(members) > 100
    assert sorted(members - attributes) == []
