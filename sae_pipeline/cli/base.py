"""The command line's application, and how a command comes by its study."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from sae_pipeline.errors import BadInput

if TYPE_CHECKING:
    import click

    from sae_pipeline.launcher.outcome import Outcome
    from sae_pipeline.stages.context import StudyContext

HELP = """Sparse autoencoders from a study file: corpora, activations, SAEs, metrics, and a report with evidence.

Exit codes: 0 done, 1 some cells failed (the rest finished) or a disk, store or database refused, 2 bad input, which includes a hub
that cannot be reached, 130 stopped by Ctrl-C.
"""


class Commands(typer.core.TyperGroup):
    """All commands: whichever Ctrl-C stops, it ends with a sentence and exit code 130."""

    def invoke(self, ctx: click.Context) -> Any:
        """The chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stopped; finished work is kept and the next run goes on from it", file=sys.stderr)
            raise SystemExit(130) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
StudyPath = Annotated[str, typer.Argument(metavar="STUDY", help="Study file, for example studies/quickstart.yaml")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line")]


def open_study(path: str) -> StudyContext:
    """Load and check a study, and point Dagster's code location and home at it."""
    from sae_pipeline.stages.context import StudyContext
    from sae_pipeline.stages.preflight import preflight
    from sae_pipeline.study import load_study, with_line

    study = load_study(path)
    os.environ["SAE_STUDY"] = str(Path(path).resolve())
    ctx = StudyContext.open(study)
    try:
        preflight(ctx)
    except BadInput as error:
        raise type(error)(with_line(str(error), path)) from None
    return ctx


def open_dagster(ctx: StudyContext) -> tuple[Any, Any]:
    """The study's Dagster definitions, and the instance of its home.

    Raises:
        StudyError: Dagster does not accept the study.
    """
    from assets import study_definitions
    from sae_pipeline.launcher import definition_errors, open_instance

    with definition_errors(os.environ["SAE_STUDY"]):
        definitions = study_definitions(ctx.study)
    return definitions, open_instance(ctx.home)


def launch(ctx: StudyContext, select: str | None = None) -> Outcome:
    """Compute what is stale of a study, with progress; every failure is a line on standard error."""
    from assets import study_definitions
    from sae_pipeline import launcher
    from sae_pipeline.terminal import show_progress

    defs, instance = open_dagster(ctx)
    with show_progress(quiet=not sys.stderr.isatty()) as announce:
        outcome = launcher.run(defs, instance, ctx, define=study_definitions, select=select, announce=announce)
    for where, sentence in outcome.failures:
        print(f"failed: {where}: {sentence}", file=sys.stderr)
    return outcome
