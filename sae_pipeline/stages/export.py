"""Export: an SAE of a study as a folder of another library, checked against the original, with a model card for the hub."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import BadInput
from sae_pipeline.stages import subject, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.inventory import find_sae
from sae_pipeline.store import Artifact, storage_errors
from sae_pipeline.store.writing import flush
from sae_pipeline.study import Cell, cells
from sae_pipeline.study.presets import catalogue
from sae_pipeline.study.text_sections import Files, HuggingFace, Retrieved, SelfGenerated

if TYPE_CHECKING:
    from sae_pipeline.reports.model_card import Figure, Loading, Source
    from sae_pipeline.saes.formats import Format
    from sae_pipeline.saes.inference import InferenceSAE

FIGURES = ("explained_variance", "cosine_similarity", "l0", "ce_loss_recovered_zero", "ce_loss_recovered_mean", "kl_divergence")
"""Metrics of the card that have an interval."""
PLAIN_FIGURES = ("dead_share",)
"""Metrics of the card that do not recombine from documents."""

RULES = {
    "topk": "Of the {d_sae:,} latents the {k} largest of a token are active.",
    "jumprelu": "Of the {d_sae:,} latents those above their thresholds are active.",
    "relu": "Of the {d_sae:,} latents the positive ones are active.",
    "gated": "Of the {d_sae:,} latents those whose gate is open are active.",
}


def export_sae(ctx: StudyContext, sae_id: str, form: str, to: Path, *, card: bool = True, licence: str = "other") -> Path:
    """Write an SAE in another library's format, checked by its golden outputs; a failure leaves nothing behind.

    Args:
        ctx: the study's context.
        sae_id: as `sae-pipeline saes` lists them.
        form: a name in ``sae_pipeline.saes.formats.FORMATS``.
        to: folder to create, or an empty one.
        card: write a model card (``README.md``) too.
        licence: the hub's identifier of the licence of the weights, for the card.

    Raises:
        BadInput: an unknown format, one that cannot express this SAE, or a target that exists already.
        ExportError: the written folder is not the same function.
    """
    from sae_pipeline.saes.formats import FORMATS
    from sae_pipeline.saes.formats.golden import check
    from sae_pipeline.saes.inference import InferenceSAE

    if form not in FORMATS:
        raise BadInput(f"--format: expected one of {', '.join(FORMATS)}, found '{form}'")
    if to.exists() and any(to.iterdir() if to.is_dir() else [to]):
        raise BadInput(f"--to: expected a folder that does not exist yet or is empty, found {to}; choose another")
    artifact, chosen = find_sae(ctx, sae_id), FORMATS[form]
    sae = _without_local_paths(InferenceSAE.load(artifact.path))
    if reason := chosen.obstacle(sae):
        able = ", ".join(name for name, other in FORMATS.items() if other.expresses(sae))
        raise BadInput(f"--format: expected one that can express {sae_id} ({able}), found '{form}': {reason}")
    target = to.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with storage_errors(to, missing=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            chosen.write(sae, partial)
            check(sae, chosen, partial)
            if card:
                _write_card(ctx, sae_id, artifact, sae, chosen, partial, licence)
            for file in partial.iterdir():
                file.chmod(partial.stat().st_mode & 0o666)  # safetensors writes files that only their owner may read
                flush(file)
            os.replace(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return to


def _without_local_paths(sae: InferenceSAE) -> InferenceSAE:
    """The subject model by the name of its folder where it is one: a path means nothing elsewhere, and may tell a user's name."""
    model = str(sae.metadata.get("model_name") or "")
    return replace(sae, metadata=sae.metadata | {"model_name": Path(model).name}) if _is_path(model) else sae


def _is_path(model: str) -> bool:
    return model.startswith((".", "~", "/")) or Path(model).exists()


def _write_card(ctx: StudyContext, sae_id: str, artifact: Artifact, sae: InferenceSAE, form: Format, folder: Path, licence: str) -> None:
    from sae_pipeline.reports.model_card import CARD_FILE, ModelCard, render_card

    cell = next(cell for cell in cells(ctx.study) if any(cell.sae_id(label) == sae_id for label in cell.arms))
    model = subject.need(ctx).model
    is_on_hub = model != "bundled" and not _is_path(model)
    named = f"the model {model}" if is_on_hub else "a model trained by the same study" if model == "bundled" else "a local model"
    content = ModelCard(
        sae_id=sae_id,
        library_name=form.name,
        licence=licence,
        base_model=model if is_on_hub else None,
        rule=RULES[sae.activation].format(d_sae=sae.d_sae, k=sae.k),
        configuration=_configuration(sae, artifact),
        hook=f"`{sae.metadata.get('hook_name')}` of {named}, {sae.d_model:,} wide",
        sources=_sources(ctx, cell),
        figures=_figures(ctx, sae_id, cell),
        confidence=ctx.study.analysis.confidence,
        loading=_loading(sae, form),
        checksums={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())},
    )
    (folder / CARD_FILE).write_text(render_card(content), encoding="utf-8")


def _configuration(sae: InferenceSAE, artifact: Artifact) -> dict[str, Any]:
    """Settings and results of training; fingerprints and what other sections say stay out."""
    elsewhere = ("model_name", "hook_name", "sae_lens_version", "subject_content", "corpus_content", "activations_fingerprint")
    settings = {name: value for name, value in sae.metadata.items() if value is not None and name not in elsewhere}
    results = ("steps", "final_loss", "final_l0", "dead_share", "seconds")
    trained = {name.removeprefix("final_"): artifact.summary[name] for name in results if artifact.summary.get(name) is not None}
    return (
        {"d_model": sae.d_model, "d_sae": sae.d_sae, "inference rule": sae.activation}
        | settings
        | {f"at the end: {k}": v for k, v in trained.items()}
    )


def _sources(ctx: StudyContext, cell: Cell) -> list[Source]:
    from sae_pipeline.reports.model_card import Source

    licences = {entry["dataset"]: entry["licence"] for entry in catalogue().values()}
    found = []
    for name, share in ctx.study.mixes[cell.mix].items():
        if share <= 0:
            continue
        source, dataset = ctx.study.sources[name], None
        what, licence = source.kind.replace("_", " "), "those of the packages"
        if isinstance(source, Retrieved):
            what, source = f"retrieved from {source.source} by keywords", ctx.study.sources[source.source]
        if isinstance(source, HuggingFace):
            local = _is_path(source.dataset)
            dataset = None if local else source.dataset
            what = f"{what}: {'a local folder' if local else ' '.join(filter(None, [source.dataset, source.config]))}, split {source.split}"
            licence = licences.get(source.dataset, "see the data set")
        elif isinstance(source, Files):
            what, licence = f"{what}: local files", "not recorded"
        elif isinstance(source, SelfGenerated):
            licence = "that of the subject model's output"
        found.append(Source(name, share, what, licence, dataset))
    return found


def _figures(ctx: StudyContext, sae_id: str, cell: Cell) -> list[Figure]:
    """The SAE's main metrics with their intervals, if the study's tables have been gathered."""
    gathered = tables.find(ctx)
    if gathered is None:
        return []
    from sae_pipeline.analysis.bootstrap import DocumentResamples, percentile_interval
    from sae_pipeline.analysis.tables import StudyTables
    from sae_pipeline.metrics.registry import METRICS
    from sae_pipeline.reports.model_card import Figure

    everything: StudyTables = tables.study_tables(gathered).at_site(cell.point.site)
    alone = replace(everything, saes=everything.saes[everything.saes["sae_id"] == sae_id])
    settings = ctx.study.analysis
    resamples = DocumentResamples(alone, settings.bootstrap_samples, settings.seed)
    figures = []
    for row in alone.sae_metrics[alone.sae_metrics["sae_id"] == sae_id].to_dict("records"):
        name, kind = str(row["evaluation_set"]), str(row["kind"])
        for metric in FIGURES:
            places, values = resamples.values(metric)
            if (sae_id, name) in places:
                drawn = values[places[sae_id, name]]
                figures.append(
                    Figure(metric, METRICS[metric].unit, name, kind, float(drawn[0]), *percentile_interval(drawn[1:], settings.confidence))
                )
        for metric in PLAIN_FIGURES:
            if isinstance(value := row[metric], float) and isfinite(value):
                figures.append(Figure(metric, METRICS[metric].unit, name, kind, value, None, None))
    return figures


def _loading(sae: InferenceSAE, form: Format) -> list[Loading]:
    """Its own library first, then this one, then those that open it once it is converted."""
    from sae_pipeline.reports.model_card import Loading
    from sae_pipeline.saes.formats import FORMATS

    ours = (
        "from sae_pipeline.saes.hub import load_sae\n\n"
        'sae = load_sae(".")  # or "owner/name" of a hub repository, with revision="…" to pin it\n'
        "latents = sae.encode(x)\nx_hat = sae.decode(latents)"
    )
    ways = [Loading(form.library, form.package, form.loading_code(".")), Loading("sae-pipeline", "sae-pipeline", ours)]
    for name, other in FORMATS.items():
        if other is not form and other.expresses(sae):
            convert = (
                "# With sae-pipeline:\nfrom pathlib import Path\n\nfrom sae_pipeline.saes.formats import FORMATS\n"
                f'from sae_pipeline.saes.hub import load_sae\n\nPath("{name}").mkdir()\nFORMATS["{name}"].write(load_sae("."), Path("{name}"))\n\n'
                f"# With {other.library}, whose environment may be another:\n"
            )
            ways.append(Loading(f"{other.library}, converted", other.package, convert + other.loading_code(name)))
    return ways
