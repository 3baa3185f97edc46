"""The command line: each command is a few lines over the engine or the launcher.

Exit codes: 0 done, 1 some cells failed (the rest finished), 2 bad input.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_pipeline.errors import BadInput, SaePipelineError, StudyError

if TYPE_CHECKING:
    from sae_pipeline.stages.context import StudyContext

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
StudyPath = Annotated[str, typer.Argument(metavar="STUDY", help="Study file, for example studies/quickstart.yaml")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line")]


def main() -> None:
    """Entry point: an error of ours is one sentence on standard error and an exit code, never a traceback."""
    warnings.filterwarnings("ignore", message=".*is currently in beta")  # Dagster's notices are addressed to us, not to our users
    try:
        app()
    except SaePipelineError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _open(path: str) -> StudyContext:
    """Load and check a study, and point Dagster's code location and home at it."""
    from sae_pipeline.stages.context import StudyContext
    from sae_pipeline.stages.preflight import preflight
    from sae_pipeline.study import load_study

    study = load_study(path)
    os.environ["SAE_STUDY"] = str(Path(path).resolve())
    ctx = StudyContext.open(study)
    preflight(ctx)
    return ctx


def _dagster(ctx: StudyContext) -> tuple[Any, Any]:
    from dagster import DagsterError

    from assets import study_definitions
    from sae_pipeline.launcher import open_instance

    try:
        definitions = study_definitions(ctx.study)
    except DagsterError as error:
        raise StudyError(
            f"{os.environ['SAE_STUDY']}: expected a study that Dagster accepts, found: {str(error).splitlines()[0]}; correct the study file"
        ) from error
    return definitions, open_instance(ctx.home)


@app.command()
def run(
    study: StudyPath,
    select: Annotated[str | None, typer.Option(help="Dagster asset selection, for example 'group:PRE'")] = None,
    as_json: Json = False,
) -> None:
    """Compute what is stale, and only that."""
    from sae_pipeline import launcher
    from sae_pipeline.terminal import show_progress

    ctx = _open(study)
    defs, instance = _dagster(ctx)
    try:
        with show_progress(quiet=not sys.stderr.isatty()) as announce:
            outcome = launcher.run(defs, instance, ctx, select=select, announce=announce)
    except KeyboardInterrupt:
        print("stopped; finished work is kept and the next run goes on from it", file=sys.stderr)
        raise SystemExit(130) from None
    for where, sentence in outcome.failures:
        print(f"failed: {where}: {sentence}", file=sys.stderr)
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
            print(report)
    if outcome.failures:
        raise SystemExit(1)


@app.command()
def plan(study: StudyPath, as_json: Json = False) -> None:
    """What would run and why, with tokens, disk and time; starts nothing."""
    from sae_pipeline import launcher
    from sae_pipeline.stages.estimate import estimate

    ctx = _open(study)
    defs, instance = _dagster(ctx)
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

    ctx = _open(study)
    defs, instance = _dagster(ctx)
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

    ctx = _open(study)
    _, instance = _dagster(ctx)
    launcher.observe_sources(instance, ctx)
    # From the home's folder: Dagster lets a `.env` of the working directory override DAGSTER_HOME.
    os.environ["SAE_HOME"] = str(ctx.home.root)
    os.chdir(ctx.home.dagster)
    # Replaces this process, so that Ctrl-C reaches Dagster itself.
    os.execv(
        sys.executable,
        [
            sys.executable,
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
def saes(study: StudyPath, as_json: Json = False) -> None:
    """The study's SAEs with configuration and main metrics."""
    from sae_pipeline.stages.inventory import inventory

    rows = inventory(_open(study))
    if as_json:
        print(json.dumps({"saes": rows}))
        return
    from sae_pipeline.terminal import print_table

    print_table(rows, ["sae_id", "d_sae", "tokens", "evaluation_set", "explained_variance", "l0", "dead_share", "ce_loss_recovered_zero"])


@app.command()
def lineage(
    sae_id: Annotated[str, typer.Argument(help="For example PRE.L01.x08.topk-k16-t200k-s0; `sae-pipeline saes` lists them")],
    study: Annotated[str, typer.Option(help="Study file the SAE belongs to")] = "studies/quickstart.yaml",
    tokens: Annotated[str | None, typer.Option(metavar="A:B", help="Also the documents behind tokens A to B of a corpus, for example 0:512")] = None,
    corpus: Annotated[str | None, typer.Option(help="Which corpus: a mix, by default the SAE's own, or held_out/<set>")] = None,
    as_json: Json = False,
) -> None:
    """The chain of an SAE from its text to the report, with hashes, versions and times; and documents behind tokens."""
    from sae_pipeline.stages import chain
    from sae_pipeline.stages.findings import records
    from sae_pipeline.store import file_sha256
    from sae_pipeline.terminal import print_chain, print_table

    ctx = _open(study)
    traced = chain.trace(ctx, sae_id)
    first, last = chain.token_range(tokens) if tokens else (0, 0)
    documents = records(chain.documents_of(ctx, corpus or sae_id.split(".")[0], first, last)) if tokens else None
    file = {"path": str(Path(study).resolve()), "sha256": file_sha256(Path(study))}
    if as_json:
        print(json.dumps({"study_file": file, **asdict(traced), **({"documents": documents} if tokens else {})}))
        return
    print(f"study file {file['path']}, sha256 {file['sha256']}")
    print_chain(traced)
    if documents is not None:
        print_table(documents, ["first", "last", "source", "key", "document_hash", "position"])


@app.command()
def evaluate(
    place: Annotated[
        str, typer.Argument(metavar="DIR_OR_HUB_ID", help="SAELens, dictionary_learning or sparsify folder, or owner/name[/folder] on the hub")
    ],
    study: Annotated[str, typer.Option(help="Study file whose held-out sets it is evaluated on")] = "studies/quickstart.yaml",
    layer: Annotated[int | None, typer.Option(help="Block it belongs to, where it does not say so itself")] = None,
    site: Annotated[str | None, typer.Option(help="Site it belongs to, for example resid_post, where it does not say so itself")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate an SAE that was made elsewhere, beside the study's own; computes the baselines it needs first."""
    from sae_pipeline import launcher
    from sae_pipeline.stages import conclusion, foreign
    from sae_pipeline.stages.findings import records
    from sae_pipeline.terminal import print_table, show_progress

    ctx = _open(study)
    adopted = foreign.adopt(ctx, place, revision, layer=layer, site=site)
    with show_progress(quiet=not sys.stderr.isatty()) as announce:
        if missing := foreign.without_baseline(ctx, adopted.point):
            defs, instance = _dagster(ctx)
            upstream = " or ".join(f'+key:"{ctx.study.name}/held_out/{name}/baseline"' for name in missing)
            outcome = launcher.run(defs, instance, ctx, select=upstream, announce=announce)
            for where, sentence in outcome.failures:
                print(f"failed: {where}: {sentence}", file=sys.stderr)
            if outcome.failures:
                raise SystemExit(1)
        evaluated = foreign.evaluate(ctx, adopted)
    conclusion.publish(ctx)
    for note in adopted.notes:
        print(f"note: {note}", file=sys.stderr)
    metrics = records(foreign.metrics_rows(ctx, [(adopted.sae_id, name, found) for name, found in evaluated.evaluations.items()]))
    own = records(foreign.own_at(ctx, adopted.point))
    health, conclusions = foreign.health(ctx, adopted)
    if as_json:
        about = {"study": ctx.study.name, "warehouse": str(ctx.home.warehouse(ctx.study.name)), **adopted.record, "notes": adopted.notes}
        print(json.dumps(about | {"computed": evaluated.computed, "metrics": metrics, "health": records(health), "own": own}))
        return
    rows = [{"origin": "foreign"} | row for row in metrics] + [{"origin": "own"} | row for row in own]
    columns = ["sae_id", "evaluation_set", "explained_variance", "cosine_similarity", "l0", "dead_share", "ce_loss_recovered_zero", "kl_divergence"]
    print_table(sorted(rows, key=lambda row: (row["evaluation_set"], row["origin"])), ["origin", *columns])
    print("\n".join(conclusions))


@app.command()
def match(
    first: Annotated[str, typer.Argument(metavar="DIR_A", help="SAELens, dictionary_learning or sparsify folder, or owner/name[/folder] on the hub")],
    second: Annotated[str, typer.Argument(metavar="DIR_B", help="The other SAE, of the same activations")],
    threshold: Annotated[float, typer.Option(help="Cosine above which two directions count as the same")] = 0.7,
    as_json: Json = False,
) -> None:
    """Which features two SAEs share, by their weights alone: match ratios both ways, one-to-one shares and their chance floors."""
    from sae_pipeline.matching.compare import compare
    from sae_pipeline.matching.weights.directions import prepare
    from sae_pipeline.saes.hub import load_sae
    from sae_pipeline.terminal import print_table

    pair = compare(*(prepare(load_sae(place)) for place in (first, second)), threshold=threshold)
    directed = ((first, second, pair.forward, pair.top_forward), (second, first, pair.backward, pair.top_backward))
    matches = [{"sae": sae, "other": other} | asdict(row) for sae, other, rows, _ in directed for row in rows]
    one_to_one = [asdict(row) for row in pair.one_to_one]
    if as_json:
        top = [{"sae": sae, "other": other} | vars(row) | {"counts": row.counts.tolist()} for sae, other, _, tops in directed for row in tops]
        splits = pair.splits and {"narrower": first if pair.splits.narrower == "a" else second, "parents": pair.splits.parents.tolist()}
        print(json.dumps({"saes": [first, second], "matches": matches, "one_to_one": one_to_one, "top_cosines": top, "splits": splits}))
        return
    figures = ["match_ratio", "chance_match_ratio", "mmcs", "chance_mmcs", "q10", "q50", "q90"]
    print_table(matches, ["sae", "other", "side", "unit", "n", "n_other", *figures])
    shares = ["shared_feature_ratio", "chance_shared_feature_ratio", "greedy_shared_feature_ratio", "shared_both", "chance_shared_both"]
    print_table(one_to_one, [*shares, "folded_shared_feature_ratio", "mean_cosine", "exact", "feature_count_difference"])


@app.command()
def improve(study: StudyPath, as_json: Json = False) -> None:
    """Train the arms proposed for a finished study beside those that they answer to, and say which are to be kept."""
    from sae_pipeline import launcher
    from sae_pipeline.stages import improvement, tables
    from sae_pipeline.stages.findings import records
    from sae_pipeline.terminal import print_table, show_progress

    ctx = _open(study)
    path = improvement.write_proposed(ctx)
    if path is None:
        none = f"nothing to improve: no arm is proposed for the study '{ctx.study.name}'; its report says why"
        print(json.dumps({"study": ctx.study.name, "proposed": None, "improvements": [], "note": none}) if as_json else none)
        return
    proposed = _open(str(path))
    defs, instance = _dagster(proposed)
    with show_progress(quiet=not sys.stderr.isatty()) as announce:
        outcome = launcher.run(defs, instance, proposed, announce=announce)
    for where, sentence in outcome.failures:
        print(f"failed: {where}: {sentence}", file=sys.stderr)
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


@app.command()
def report(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Study file, unless --results is given")] = None,
    results: Annotated[Path | None, typer.Option(help="CSV or Parquet table of results made elsewhere, instead of a study")] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="ID=COLUMN", help="Column of the table that stands for one of ours; also ID=COLUMN*1e6, ID=COLUMN/100, ID="),
    ] = None,
    in_domain: Annotated[
        list[str] | None, typer.Option(metavar="MIX=SET[:SHARE]", help="Share of a mix's training text that is of the kind of an evaluation set")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the report of --results")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild findings and report from the stored tables, or draw them from a table of results made elsewhere."""
    if (study is None) == (results is None):
        raise BadInput("expected a study file or --results FILE, found " + ("neither" if study is None else "both") + "; give one of them")
    if results is not None:
        _report_results(results, names or [], in_domain or [], to, as_json)
        return
    if names or in_domain or to:
        raise BadInput("--map, --in-domain and --to belong to --results FILE, found them with a study file; leave them out")
    from sae_pipeline.stages import conclusion, findings, reports, tables

    ctx = _open(str(study))
    tables.gather(ctx)
    findings.draw(ctx)
    conclusion.publish(ctx)
    reports.build(ctx)
    path = str(ctx.home.report(ctx.study.name))
    print(json.dumps({"study": ctx.study.name, "report": path}) if as_json else path)


def _report_results(path: Path, names: list[str], in_domain: list[str], to: Path | None, as_json: bool) -> None:
    """Findings and report of a table made elsewhere, and what its columns allow."""
    from sae_pipeline.foreign_tables.analyses import analyses
    from sae_pipeline.foreign_tables.declared import in_domain as declared_shares
    from sae_pipeline.foreign_tables.report import write
    from sae_pipeline.foreign_tables.results import read_results
    from sae_pipeline.reports.folder import PAGE

    if to is None:
        raise BadInput("expected --to DIR with --results, found none; name the folder that the report is written to")
    table = read_results(path, names)
    shares = declared_shares(table, in_domain)
    summary = write(table, shares, to)
    found = analyses(table, shares)
    if as_json:
        columns = {column.id: {"column": column.name, "times": column.factor} for column in table.taken}
        rows = {"rows": table.rows, "left_out": [{"reason": reason, "rows": count} for reason, count in table.left_out]}
        about = {"results": str(path), "report": str(to / PAGE), **rows, "columns": columns, "computed": table.derived, "unused": table.unused}
        print(json.dumps(about | {"analyses": [{"analysis": a.name, "possible": a.possible, "lacks": a.lacks} for a in found], **summary}))
        return
    print(
        f"{table.rows} rows, {len(table.saes)} SAEs; {', '.join(f'{c.name} is {c.id}' for c in table.taken if c.name != c.id) or 'all columns by our names'}"
    )
    for reason, count in table.left_out:
        print(f"left out: {count} rows, {reason}")
    if table.unused:
        print(f"nothing taken from: {', '.join(table.unused)}")
    for analysis in found:
        print(f"{'possible' if analysis.possible else 'not possible'}: {analysis.name}{'' if analysis.possible else f'; lacks {analysis.lacks}'}")
    print(summary["headline"])
    print(to / PAGE)


@app.command()
def compare(
    earlier: Annotated[str, typer.Argument(metavar="BEFORE", help="Study file or warehouse.duckdb")],
    later: Annotated[str, typer.Argument(metavar="AFTER", help="Study file or warehouse.duckdb")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the page; by default beside the report of AFTER")] = None,
    as_json: Json = False,
) -> None:
    """A page on what changed between two studies, or between two dates of one: SAEs, metrics, findings and health marks."""
    from sae_pipeline.stages.comparison import compare as compare_studies

    compared = compare_studies(earlier, later, to)
    if as_json:
        print(json.dumps(compared))
        return
    print(compared["headline"])
    print(compared["page"])


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
    as_json: Json = False,
) -> None:
    """Remove from the store what none of the named studies needs."""
    from sae_pipeline.stages.cleaning import reclaim

    gone = reclaim([_open(study) for study in studies], dry_run=dry_run)
    size = sum(item.bytes for item in gone)
    if as_json:
        print(json.dumps({"dry_run": dry_run, "bytes": size, "removed": [asdict(item) for item in gone]}))
        return
    for stage, count in Counter(item.stage for item in gone).items():
        print(f"{stage}: {count}, {sum(item.bytes for item in gone if item.stage == stage) / 1e6:.1f} MB")
    print(f"{'would free' if dry_run else 'freed'} {size / 1e9:.2f} GB in {len(gone)} folders")


@app.command()
def track(
    study: StudyPath,
    tracker: Annotated[str, typer.Option("--with", help="tensorboard, mlflow or wandb (offline)")],
    to: Annotated[
        str | None, typer.Option(help="Folder, or for mlflow the address of its server or database; by default the tracker's usual one")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hand training curves and metrics to a tracker; what it has already is left alone."""
    from sae_pipeline.stages.tracking import hand_over

    ctx = _open(study)
    new, place = hand_over(ctx, tracker, to)
    print(json.dumps({"study": ctx.study.name, "tracker": tracker, "place": place, "new": new}) if as_json else f"{new} new runs in {place}")


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


@app.command()
def export(
    sae_id: Annotated[str, typer.Argument(help="For example PRE.L01.x08.topk-k16-t200k-s0; `sae-pipeline saes` lists them")],
    to: Annotated[Path, typer.Option(help="Folder to create")],
    study: Annotated[str, typer.Option(help="Study file the SAE belongs to")] = "studies/quickstart.yaml",
    format: Annotated[str, typer.Option(help="saelens, dictionary_learning or sparsify")] = "saelens",
    card: Annotated[bool, typer.Option("--card/--no-card", help="Write a model card for the Hugging Face hub beside the weights")] = True,
    licence: Annotated[str, typer.Option(help="Licence of the weights in the card, as the hub spells it, for example apache-2.0")] = "other",
    as_json: Json = False,
) -> None:
    """Write an SAE as a folder that another library opens, checked against the original."""
    from sae_pipeline.stages.export import export_sae

    path = str(export_sae(_open(study), sae_id, format, to, card=card, licence=licence))
    print(json.dumps({"sae_id": sae_id, "format": format, "path": path}) if as_json else path)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `sae-pipeline export` wrote")],
    repository: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hugging Face hub; made if it does not exist")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one")] = False,
    as_json: Json = False,
) -> None:
    """Upload an exported SAE to the Hugging Face hub with your own token (HF_TOKEN)."""
    from sae_pipeline.saes.hub import push as push_folder

    address = push_folder(folder, repository, private=private)
    print(json.dumps({"repository": repository, "address": address}) if as_json else address)
