"""Where rubrics lie. Apart from reading them, because Dagster asks for a rubric's hash while it loads the definitions."""

from __future__ import annotations

from pathlib import Path

from sae_pipeline.errors import StudyError

FOLDER = Path(__file__).with_name("rubrics")
"""The rubrics that come with the package."""


def rubric_path(name: str) -> Path:
    """The file of a rubric, given the name of one that comes with the package or the path of a YAML file.

    Raises:
        StudyError: there is no such rubric.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise StudyError(f"analysis.rubrics: expected the name of a rubric ({known}) or the path of a YAML file, found '{name}'; correct it")
    return path
