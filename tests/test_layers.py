"""The layers of docs/architecture.md, compared with the import statements of the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import corral

PACKAGE = Path(corral.__file__).parent


def module_of(path: Path) -> str:
    """The name of the module in a file."""
    parts = ("corral", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in PACKAGE.rglob("*.py") if "testing" not in path.parts}


def imported(module: str) -> set[str]:
    """The modules of corral that a module imports when it is loaded, without those for type checkers only."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set[str]()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{base}" if base else above
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names
            }
    return {name for name in found if name in FILES} - {module}


def statements(tree: ast.AST) -> list[ast.stmt]:
    """The statements of a module, without those in `if TYPE_CHECKING:` and those in functions, which run
    later."""
    found = []
    for node in ast.iter_child_nodes(tree):
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if (
            isinstance(node, ast.stmt)
            and not is_for_types
            and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ):
            found += [node, *statements(node)]
    return found


IMPORTS = {module: imported(module) for module in FILES}


def layer(module: str) -> str:
    """The layer that a module belongs to."""
    _, _, rest = module.partition(".")
    if rest.startswith("recipes.kit"):
        return "kit"
    first = rest.split(".")[0]
    return (
        first
        if first in ("wire", "session", "watch", "recipes")
        else "client"
        if first in ("client", "ensemble", "")
        else "base"
    )


ALLOWED = {
    "base": {"base", "wire", "session"},
    "wire": {"base", "wire"},
    "session": {"base", "wire", "session"},
    "watch": {"base", "wire", "session", "watch"},
    "kit": {"base", "wire", "session", "watch", "kit"},
    "recipes": {"base", "watch", "kit", "recipes"},
    "client": {"base", "wire", "session", "watch", "kit", "recipes", "client"},
}
"""The layers that each layer may import. `base` is what all layers may use: paths, errors, types, typed
operations."""


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    """For example, a recipe imports neither the session nor the wire, a watch no recipe, the session no
    client."""
    allowed = ALLOWED[layer(module)]
    assert sorted(name for name in IMPORTS[module] if name != "corral" and layer(name) not in allowed) == []


def test_no_import_circles() -> None:
    """There are no circular imports: each module can be loaded, and read, without the modules that use it."""
    finished, circles = set[str](), []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            circles.append(" > ".join((*path[path.index(module) :], module)))
        elif module not in finished:
            for name in sorted(IMPORTS[module] - {"corral"}):
                visit(name, (*path, module))
            finished.add(module)

    for module in sorted(FILES):
        visit(module, ())
    assert circles == []


def test_the_checks_see_what_they_forbid() -> None:
    """The checks find imports: the client imports all recipes, the kit imports the session."""
    assert {"corral.recipes.lock", "corral.session.session"} <= IMPORTS["corral.client"]
    assert "corral.session.requests" in IMPORTS["corral.recipes.kit.line"]
    assert layer("corral.recipes.kit.line") == "kit"
    assert layer("corral.recipes.lock") == "recipes"
