"""Single SAEs: listed, traced to their text, matched, evaluated when made elsewhere, exported, pushed, handed to a tracker."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sae_pipeline.cli.base import Json, StudyPath, app, launch, open_study
from sae_pipeline.errors import BadInput


@app.command()
def saes(study: StudyPath, as_json: Json = False) -> None:
    """The study's SAEs with configuration and main metrics."""
    from sae_pipeline.stages.inventory import inventory

    rows = inventory(open_study(study))
    if as_json:
        print(json.dumps({"saes": rows}))
        return
    from sae_pipeline.terminal import print_table

    print_table(rows, ["sae_id", "d_sae", "tokens", "evaluation_set", "explained_variance", "l0", "dead_share", "ce_loss_recovered_zero"])


@app.command()
def lineage(
    sae_id: Annotated[str, typer.Argument(help="For example PRE.L01.x08.topk-k16-t200k-s0; `sae-pipeline saes` lists them")],
    study: Annotated[str, typer.Option(help="Study file the SAE belongs to")] = "studies/quickstart.yaml",
    tokens: Annotated[
        str | None, typer.Option(metavar="A:B", help="Also the documents behind tokens A to B (not included) of a corpus, for example 0:512")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Which corpus: a mix, by default the SAE's own, or held_out/<set>")] = None,
    as_json: Json = False,
) -> None:
    """The chain of an SAE from its text to the report, with hashes, versions and times; and documents behind tokens."""
    from sae_pipeline.stages import chain
    from sae_pipeline.stages.findings import records
    from sae_pipeline.store import file_sha256
    from sae_pipeline.terminal import print_chain, print_table

    if corpus is not None and tokens is None:
        raise BadInput("--corpus: expected --tokens beside it, found none; name the tokens whose documents are looked up, for example --tokens 0:512")
    ctx = open_study(study)
    traced = chain.trace(ctx, sae_id)
    start, end = chain.token_range(tokens) if tokens else (0, 0)
    documents = records(chain.documents_of(ctx, corpus or sae_id.split(".")[0], start, end)) if tokens else None
    file = {"path": str(Path(study).resolve()), "sha256": file_sha256(Path(study))}
    if as_json:
        print(json.dumps({"study_file": file, **asdict(traced), **({"documents": documents} if tokens else {})}))
        return
    print(f"study file {file['path']}, sha256 {file['sha256']}")
    print_chain(traced)
    if documents is not None:
        print_table(documents, ["start", "end", "source", "key", "document_hash", "position"])


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
    from sae_pipeline.safety.text import plain
    from sae_pipeline.stages import conclusion, foreign
    from sae_pipeline.stages.findings import records
    from sae_pipeline.terminal import print_table, show_progress

    ctx = open_study(study)
    adopted = foreign.adopt(ctx, place, revision, layer=layer, site=site)
    missing = foreign.without_baseline(ctx, adopted.point)
    if missing and launch(ctx, " or ".join(f'+key:"{ctx.study.name}/held_out/{name}/baseline"' for name in missing)).failures:
        raise SystemExit(1)
    with show_progress(quiet=not sys.stderr.isatty()):
        evaluated = foreign.evaluate(ctx, adopted)
    conclusion.publish(ctx)
    for note in adopted.notes:
        print(plain(f"note: {note}"), file=sys.stderr)
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

    path = str(export_sae(open_study(study), sae_id, format, to, card=card, licence=licence))
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

    ctx = open_study(study)
    new, place = hand_over(ctx, tracker, to)
    print(json.dumps({"study": ctx.study.name, "tracker": tracker, "place": place, "new": new}) if as_json else f"{new} new runs in {place}")
