"""A study's life: run it, ask what would run, look at it in Dagster, and let it say what to train next."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from sae_pipeline.cli.base import Json, StudyPath, app, launch, open_dagster, open_study


@app.command()
def run(
    study: StudyPath,
    select: Annotated[str | None, typer.Option(help="Dagster asset selection, for example 'group:PRE'")] = None,
    as_json: Json = False,
) -> None:
    """Compute what is stale, and only that."""
    ctx = open_study(study)
    outcome = launch(ctx, select)
    outdated = f"{ctx.study.name}/comparison_report" in outcome.outdated
    report, warehouse = ctx.home.report(ctx.study.name), ctx.home.warehouse(ctx.study.name)
    if as_json:
        print(
            json.dumps(
                {
                    "study": ctx.study.name,
                    "launched": outcome.launched,
                    "computed": outcome.computed,
                    "reused": outcome.reused,
                    "failed": len(outcome.failures),
                    "seconds": outcome.seconds,
                    "report": str(report) if report.exists() else None,
                    "report_outdated": outdated,
                    "warehouse": str(warehouse) if warehouse.exists() else None,
                    "store": str(ctx.store.root),
                    "computed_by_asset": {asset: n for asset, n in outcome.computed_by_asset.items() if n},
                    "failures": [{"where": where, "error": sentence} for where, sentence in outcome.failures],
                }
            )
        )
    else:
        print(
            f"{outcome.launched} runs, {outcome.computed} artifacts computed, {outcome.reused} reused, {len(outcome.failures)} failed, {outcome.seconds:.1f} s"
        )
        if report.exists():
            print(f"{report} (of an earlier run: this one could not finish it)" if outdated else report)
    if outcome.failures:
        raise SystemExit(1)


@app.command()
def plan(study: StudyPath, as_json: Json = False) -> None:
    """What would run and why, with tokens, disk and time; starts nothing."""
    from sae_pipeline import launcher
    from sae_pipeline.stages.estimate import check_budget, estimate

    ctx = open_study(study)
    check_budget(ctx)
    defs, instance = open_dagster(ctx)
    launcher.observe_sources(instance, ctx)
    stale = launcher.plan(defs, instance, ctx)
    figures = estimate(ctx)
    if as_json:
        print(json.dumps({"stale": [{"asset": s.asset, "partition": s.partition, "reason": s.reason} for s in stale], **figures}))
        return
    print(
        f"{figures['cells']} cells, {figures['arms']} SAEs, {figures['tokens']:,} tokens to harvest, {figures['training_tokens']:,} to train on, "
        f"about {figures['bytes'] / 1e9:.2f} GB and {figures['seconds'] / 60:.0f} min from nothing"
    )
    for note in figures["notes"]:
        print(f"note: {note}")
    for item in stale:
        print(f"{item.asset}{' ' + item.partition if item.partition else ''}: {item.reason}")
    print(f"{len(stale)} partitions to look at" if stale else "nothing to do")


@app.command()
def status(study: StudyPath, as_json: Json = False) -> None:
    """State of every asset and partition."""
    from sae_pipeline import launcher

    ctx = open_study(study)
    defs, instance = open_dagster(ctx)
    launcher.observe_sources(instance, ctx)
    rows = launcher.status(defs, instance, ctx)
    if as_json:
        print(json.dumps({"study": ctx.study.name, "assets": [{"asset": a, "partition": p, "state": s} for a, p, s in rows]}))
        return
    by_asset: dict[str, list[tuple[str | None, str]]] = {}
    for asset, partition, state in rows:
        by_asset.setdefault(asset, []).append((partition, state))
    for asset, states in by_asset.items():
        fresh = sum(state == "fresh" for _, state in states)
        print(f"{asset}: {fresh} of {len(states)} fresh")
        for partition, state in states:
            if state != "fresh":
                print(f"  {partition or ''} {state}")


@app.command()
def ui(study: StudyPath, port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 3000) -> None:
    """The Dagster UI and daemon, on the home the other commands use."""
    from sae_pipeline import launcher

    ctx = open_study(study)
    _, instance = open_dagster(ctx)
    launcher.share_gpu_pool(instance)
    launcher.observe_sources(instance, ctx)
    # From the home's folder: Dagster lets a `.env` of the working directory override DAGSTER_HOME.
    os.environ["SAE_HOME"] = str(ctx.home.root)
    os.chdir(ctx.home.dagster)
    # Replaces this process, so that Ctrl-C reaches Dagster itself.
    os.execv(
        sys.executable,
        [
            sys.executable,
            "-W",
            "ignore:Function `dev_command` is superseded",  # addressed to those who type it
            "-m",
            "dagster",
            "dev",
            "-m",
            "sae_pipeline.definitions",
            "-a",
            "defs",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "--log-level",
            "warning",
        ],
    )


@app.command()
def improve(study: StudyPath, as_json: Json = False) -> None:
    """Train the arms proposed for a finished study beside those that they answer to, and say which are to be kept."""
    from sae_pipeline.stages import improvement, tables
    from sae_pipeline.stages.findings import records
    from sae_pipeline.terminal import print_table

    ctx = open_study(study)
    path = improvement.write_proposed(ctx)
    if path is None:
        none = f"nothing to improve: no arm is proposed for the study '{ctx.study.name}'; its report says why"
        print(json.dumps({"study": ctx.study.name, "proposed": None, "improvements": [], "note": none}) if as_json else none)
        return
    proposed = open_study(str(path))
    outcome = launch(proposed)
    if tables.find(proposed) is None:
        raise SystemExit(1)
    found = improvement.judge(ctx, proposed)
    rows = records(found.table)
    if as_json:
        about = {"study": ctx.study.name, "proposed": str(path), "kept": str(found.kept) if found.kept else None, "folder": str(found.folder)}
        counts = {"computed": outcome.computed, "reused": outcome.reused, "failed": len(outcome.failures), "seconds": outcome.seconds}
        print(json.dumps(about | counts | {"computed_by_asset": outcome.computed_by_asset, "improvements": rows}))
    else:
        print_table(rows, ["cause", "change", "answers_to", "metric", "before", "after", "gain", "gain_low", "gain_high", "guard", "verdict", "note"])
        print(found.kept or f"no proposed arm is kept; {found.folder} holds the verdicts")
    if outcome.failures:
        raise SystemExit(1)
