"""The engine is plain Python: Dagster is above it, in the launcher and the definitions, and the assets are above both."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sae_pipeline

ENGINE = Path(sae_pipeline.__file__).resolve().parent
ABOVE = ("launcher", "cli", "definitions.py")
"""Parts of the package that stand over the engine and drive Dagster."""


def imported(module: Path) -> Iterator[str]:
    """Top-level packages that a module imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_nothing_of_the_engine_imports_orchestration() -> None:
    modules = [path for path in ENGINE.rglob("*.py") if path.relative_to(ENGINE).parts[0] not in ABOVE]
    assert len(modules) > 200
    assert [path.name for path in modules if {"dagster", "assets", "resources"} & set(imported(path))] == []


def test_the_launcher_is_handed_the_assets() -> None:
    assert not [path.name for path in (ENGINE / "launcher").rglob("*.py") if {"assets", "resources"} & set(imported(path))]
