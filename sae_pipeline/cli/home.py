"""What a machine holds: ready-made settings, the store, and whether all is well."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from sae_pipeline.cli.base import Json, app, open_study
from sae_pipeline.errors import BadInput


@app.command()
def presets(as_json: Json = False) -> None:
    """The ready-made sources and training settings, for `preset: NAME` (and `adjust: NAME`) in a study file."""
    from sae_pipeline.study import training_presets
    from sae_pipeline.study.presets import catalogue

    entries = catalogue()
    if as_json:
        print(json.dumps({"sources": entries, **training_presets.as_json()}))
        return
    print("sources (sources.<name>):")
    for name, entry in entries.items():
        print(f"{name}: {entry['dataset']}{' ' + entry['config'] if 'config' in entry else ''}; {entry['licence']}. {entry['note']}.")
    print("\ntraining (saes.defaults, saes.arms[]); the study file's manual says how each figure is read:")
    for line in training_presets.lines():
        print(line)


@app.command()
def gc(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY…", help="Study files whose artifacts are kept")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing")] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Remove it from the store that machines share (SAE_STORE) too, unless it came within the last day")
    ] = False,
    recent: Annotated[bool, typer.Option("--recent", help="With --shared: what came within the last day too")] = False,
    as_json: Json = False,
) -> None:
    """Remove from the store what none of the named studies needs, and from Dagster's event log the runs of more than a month ago."""
    from sae_pipeline.launcher import open_instance
    from sae_pipeline.launcher.forgetting import forget_runs
    from sae_pipeline.launcher.instance import event_log_errors
    from sae_pipeline.stages.cleaning import reclaim, reclaim_shared

    if recent and not shared:
        raise BadInput(
            "--recent: expected --shared beside it, found it alone; add --shared, or leave --recent out: the home keeps nothing for its age"
        )
    opened = [open_study(study) for study in studies]
    home = opened[0].home
    gone = reclaim_shared(opened, recent=recent, dry_run=dry_run) if shared else []
    gone += reclaim(opened, dry_run=dry_run)
    size = sum(item.bytes for item in gone)
    if not as_json:
        for (stage, where), count in Counter((item.stage, item.shared) for item in gone).items():
            size_there = sum(item.bytes for item in gone if (item.stage, item.shared) == (stage, where))
            print(f"{stage}{' in the shared store' if where else ''}: {count}, {size_there / 1e6:.1f} MB")
        print(f"{'would free' if dry_run else 'freed'} {size / 1e9:.2f} GB in {len(gone)} folders")
    # Last: an event log on a full disk can be written to once there is room again, and one that fails costs nothing else.
    with event_log_errors(home):
        runs = forget_runs(open_instance(home), home, dry_run=dry_run)
    if as_json:
        print(json.dumps({"dry_run": dry_run, "bytes": size, "removed": [asdict(item) for item in gone], "runs": runs}))
    else:
        print(f"{runs} old runs {'would be' if dry_run else 'are'} forgotten")


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended; no result is removed")] = False, as_json: Json = False
) -> None:
    """Check the installation, the devices, the disk, and every byte of the store (SAE_HOME)."""
    from sae_pipeline.launcher.doctor import examine
    from sae_pipeline.store import Home

    ill = False
    rows = []
    for diagnosis in examine(Home.from_environment()):
        mended = repair and diagnosis.mend is not None
        if mended and diagnosis.mend is not None:
            diagnosis.mend()
        ill = ill or not (diagnosis.healthy or mended)
        rows.append({"check": diagnosis.check, "healthy": diagnosis.healthy, "found": diagnosis.found, "remedy": diagnosis.remedy, "mended": mended})
        if not as_json:
            state = "mended" if mended else "ok" if diagnosis.healthy else "not ok"
            print(f"{diagnosis.check}: {state}: {diagnosis.found}{f'; {diagnosis.remedy}' if diagnosis.remedy and not mended else ''}")
    if as_json:
        print(json.dumps({"healthy": not ill, "checks": rows}))
    if ill:
        raise SystemExit(1)
