"""Foreign SAEs: made elsewhere, evaluated on a study's held-out sets and baselines by the same code as the study's own.

The store keeps an SAE that was evaluated as it keeps every other, folded to raw model units and known by its weights. Its
evaluations have the identity that an own SAE's have, so nothing of the study changes when one is evaluated. Which of them
belong to a study is recorded in the home; their tables have names of their own in the warehouse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import BadInput
from sae_pipeline.stages import evaluation, saes, slices, spelling, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest, storage_errors, write_json
from sae_pipeline.study import Cell, HookPoint

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.saes.inference import InferenceSAE

STAGE, TABLES_STAGE = "foreign_saes", "foreign_tables"
SAES, METRICS, HEALTH = "foreign_saes", "foreign_sae_metrics", "foreign_health"
FOLDER = "foreign"
"""Folder of the home with a record per study, foreign SAE and hook point."""

LANE = "foreign"
"""Stands where the names of own SAEs have their mix."""

NULLABLE: dict[str, Any] = {"k": "Int64"} | dict.fromkeys(("revision", "model_name", "hook_name"), "string")
"""Types of columns that may be null in every row."""


# ------------------------------------------------------------------------------------------------ one SAE


@dataclass(frozen=True)
class ForeignSAE:
    """An SAE that was made elsewhere, in the store, and the hook point of the study that it is evaluated at."""

    artifact: Artifact
    point: HookPoint
    record: dict[str, Any]
    """``sae_id``, and where it comes from: ``place``, ``revision``, and ``model_name`` and ``hook_name`` as it says itself."""
    notes: tuple[str, ...] = ()
    """What a reader of its figures should know, as sentences."""

    @property
    def sae_id(self) -> str:
        """Its name in tables, for example ``foreign.L08.x32.my-sae-1f0c9a2b``."""
        return self.record["sae_id"]


def adopt(ctx: StudyContext, place: str, revision: str | None = None, *, layer: int | None = None, site: str | None = None) -> ForeignSAE:
    """Read an SAE of any known format and put it into the store.

    Args:
        ctx: the study that it is evaluated by.
        place: a folder, or ``owner/name`` or ``owner/name/folder`` on the hub.
        revision: of a hub repository.
        layer, site: the hook point, where the SAE does not say it or something else is wanted.

    Raises:
        BadInput: no SAE that can be read, of no hook point of the study, or of another width than its subject.
        HubError: the hub refuses, or cannot be reached.
    """
    from sae_pipeline.saes.hub import load_sae
    from sae_pipeline.saes.warm_start import content
    from sae_pipeline.stages.declared_points import chosen_point, declared_point

    sae = load_sae(place, revision)
    name = Path(place).resolve().name if Path(place).is_dir() else Path(place).name
    point, notes = chosen_point(ctx.study, place, declared_point(sae.metadata, name), layer, site)
    _check_width(ctx, place, sae.d_model)
    inputs = {"content": content(sae)}
    with ctx.store.draft(STAGE, digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs) as draft:
        if isinstance(draft, Artifact):
            artifact = draft
        else:
            sae.save(draft.path)
            artifact = draft.publish({"d_model": sae.d_model, "d_sae": sae.d_sae, "activation": sae.activation, "k": sae.k})
    cell = Cell(LANE, point, sae.d_sae / sae.d_model, {})
    record = {
        "sae": artifact.fingerprint,
        "sae_id": cell.sae_id(f"{name}-{artifact.fingerprint[:8]}"),
        "place": str(Path(place).resolve()) if Path(place).is_dir() else place,
        "revision": sae.metadata.get("hub_revision"),
        "layer": point.layer,
        "site": point.site,
        **{key: _text(sae.metadata.get(key)) for key in ("model_name", "hook_name")},
    }
    return ForeignSAE(artifact, point, record, (*notes, *_notes_on_model(ctx, sae)))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _check_width(ctx: StudyContext, place: str, d_model: int) -> None:
    """Refuse an SAE of other activations, as soon as the subject's width is known (BadInput)."""
    known = subject.find(ctx)
    if known is not None and d_model != known.record["d_model"]:
        raise BadInput(
            f"{place}: expected an SAE of activations that are {known.record['d_model']} wide, as those of {known.model}, found one of width {d_model}; "
            "give an SAE of this study's subject model, or the study of the model that it was trained on"
        )


def _notes_on_model(ctx: StudyContext, sae: InferenceSAE) -> Iterator[str]:
    """A note where the SAE names another model than the study's; one and the same has many names, so it is no error."""
    known, content = subject.find(ctx), sae.metadata.get("subject_content")
    if known is not None and content is not None and content == known.artifact.content:
        return
    named, ours = sae.metadata.get("model_name"), ctx.study.subject.model
    if named is not None and Path(str(named)).name.lower() != Path(ours).name.lower():
        yield f"it says it was trained on the model {named}, and is evaluated on {ours}"


def without_baseline(ctx: StudyContext, point: HookPoint) -> list[str]:
    """Held-out sets whose baseline at a hook point has not been measured."""
    return [name for name in ctx.study.held_out if evaluation.find_baseline(ctx, name, point) is None]


@dataclass(frozen=True)
class Evaluated:
    """What came of evaluating a foreign SAE."""

    evaluations: dict[str, Artifact]
    """By held-out set."""

    @property
    def computed(self) -> int:
        """How many of them this call computed."""
        return sum(not artifact.reused for artifact in self.evaluations.values())


def evaluate(ctx: StudyContext, foreign: ForeignSAE) -> Evaluated:
    """Evaluate a foreign SAE on every held-out set, as own SAEs are, and record that it belongs to the study.

    Raises:
        BadInput: it is of another width than the subject's activations.
        StorageError: a baseline is missing.
    """
    _check_width(ctx, foreign.record["place"], foreign.artifact.summary["d_model"])
    found = {name: evaluation.evaluate_on(ctx, name, foreign.point, {foreign.sae_id: foreign.artifact}) for name in ctx.study.held_out}
    folder = _records_folder(ctx)
    with storage_errors(folder, missing=True):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{foreign.artifact.fingerprint}-{foreign.point.key}.json", foreign.record)
    return Evaluated({name: artifacts[foreign.sae_id] for name, artifacts in found.items()})


# ------------------------------------------------------------------------------------------------ the study's foreign SAEs


@dataclass(frozen=True)
class _Known:
    """A recorded foreign SAE whose evaluations on the study as it is are in the store."""

    record: dict[str, Any]
    artifact: Artifact
    point: HookPoint
    evaluations: dict[str, Artifact]


def _records_folder(ctx: StudyContext) -> Path:
    return ctx.home.root / FOLDER / ctx.study.name


def _known(ctx: StudyContext) -> Iterator[_Known]:
    for path in sorted(_records_folder(ctx).glob("*.json")):
        record = json.loads(path.read_text())
        artifact, point = ctx.store.find(STAGE, record["sae"]), HookPoint(record["layer"], record["site"])
        if artifact is None or point not in ctx.study.hook_points:
            continue
        baselines = {name: evaluation.find_baseline(ctx, name, point) for name in ctx.study.held_out}
        found = {name: evaluation.find_evaluation(ctx, artifact, baseline) for name, baseline in baselines.items() if baseline is not None}
        yield _Known(record, artifact, point, {name: evaluated for name, evaluated in found.items() if evaluated is not None})


def _tables_identity(ctx: StudyContext, known: list[_Known]) -> tuple[str, dict[str, Any]]:
    inputs = {
        "saes": [each.record | {"evaluations": {name: found.fingerprint for name, found in each.evaluations.items()}} for each in known],
        "study": slices.foreign(ctx.study),
        "subject_parameters": subject.need(ctx).record["parameters"],
    }
    return digest(TABLES_STAGE, slices.VERSIONS[TABLES_STAGE], inputs), inputs


def find(ctx: StudyContext) -> Artifact | None:
    """The tables of the study's foreign SAEs, if there are any and they have been gathered."""
    known = [each for each in _known(ctx) if each.evaluations]
    return ctx.store.find(TABLES_STAGE, _tables_identity(ctx, known)[0]) if known else None


def found(ctx: StudyContext) -> Iterator[tuple[str, Artifact]]:
    """(name, artifact) of everything the store holds of the study's foreign SAEs."""
    for each in _known(ctx):
        yield each.record["sae_id"], each.artifact
        yield from ((f"{each.record['sae_id']} on {name}", evaluated) for name, evaluated in each.evaluations.items())
        if (measured := spelling.find_absorption(ctx, each.point, each.artifact)) is not None:
            yield f"first letters of {each.record['sae_id']}", measured
    if (gathered := find(ctx)) is not None:
        yield TABLES_STAGE, gathered


def gather(ctx: StudyContext) -> Artifact | None:
    """Gather the evaluations of the study's foreign SAEs into tables with the columns of the own ones; None without any."""
    known = [each for each in _known(ctx) if each.evaluations]
    if not known:
        return None
    fingerprint, inputs = _tables_identity(ctx, known)
    with ctx.store.draft(TABLES_STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        import pandas as pd

        from sae_pipeline.analysis.health.marks import judge
        from sae_pipeline.analysis.health.rubrics import load_rubrics

        evaluations = [(each.record["sae_id"], name, evaluated) for each in known for name, evaluated in each.evaluations.items()]
        frames = {SAES: pd.DataFrame([_described(each) for each in known]).astype(NULLABLE), METRICS: metrics_rows(ctx, evaluations)}
        for table, file in evaluation.GATHERED.items():
            parts = [pd.read_parquet(found.file(f"{file}.parquet")).assign(sae_id=sae_id, evaluation_set=name) for sae_id, name, found in evaluations]
            frames[f"foreign_{table}"] = pd.concat([part[["sae_id", *part.columns.drop("sae_id")]] for part in parts], ignore_index=True)
        # What an SAE was set to is known of TopK alone; a rule on that judges no other.
        set_to = frames[SAES].rename(columns={"activation": "architecture"}).assign(sparsity=frames[SAES]["k"].astype(float))
        frames[HEALTH] = judge(load_rubrics(ctx.study.analysis.rubrics), frames[METRICS], set_to, inputs["subject_parameters"])
        for name, frame in frames.items():
            frame.to_parquet(draft.path / f"{name}.parquet", index=False)
        return draft.publish({name: len(frame) for name, frame in frames.items()})


def _described(known: _Known) -> dict[str, Any]:
    """One row of ``foreign_saes``."""
    record, about = known.record, known.artifact.summary
    return {
        **{name: record[name] for name in ("sae_id", "place", "revision", "model_name", "hook_name", "layer", "site")},
        "expansion": about["d_sae"] / about["d_model"],
        **{name: about[name] for name in ("d_model", "d_sae", "activation", "k")},
        "fingerprint": known.artifact.fingerprint,
        "path": str(known.artifact.folder),
    }


# ------------------------------------------------------------------------------------------------ side by side


def metrics_rows(ctx: StudyContext, evaluations: list[tuple[str, str, Artifact]]) -> pd.DataFrame:
    """Rows like those of ``sae_metrics`` from (sae_id, held-out set, evaluation); what text such an SAE was trained on is not known."""
    import pandas as pd

    from sae_pipeline.metrics.registry import METRICS as METRIC_IDS

    rows = [
        {"sae_id": sae_id, "evaluation_set": name, "kind": ctx.study.held_out[name].kind, "shared_text": float("nan")}
        | evaluated.json("metrics.json")
        for sae_id, name, evaluated in evaluations
    ]
    return pd.DataFrame(rows, columns=["sae_id", "evaluation_set", "kind", "shared_text", *METRIC_IDS]).astype(dict.fromkeys(METRIC_IDS, float))


def health(ctx: StudyContext, foreign: ForeignSAE) -> tuple[pd.DataFrame, list[str]]:
    """Rows like those of ``health`` of an evaluated foreign SAE, and a worded conclusion by each rubric of the study.

    The conclusions are over the in-sample sets, or all where there is none, as those of the report are; each names its sets.
    """
    import pandas as pd

    from sae_pipeline.analysis.health.marks import bottom_lines
    from sae_pipeline.analysis.health.rubrics import load_rubrics
    from sae_pipeline.reports.wording import listed

    gathered = gather(ctx)
    assert gathered is not None
    rows = pd.read_parquet(gathered.file(f"{HEALTH}.parquet"))
    rows = rows[rows["sae_id"] == foreign.sae_id]
    sets = ctx.study.in_sample or list(ctx.study.held_out)
    rubrics = load_rubrics(ctx.study.analysis.rubrics)
    lines = [f"{rubric.name}: {line}" for rubric in rubrics for line in bottom_lines(rows, rubric, sets)["sentence"]]
    return rows, [f"{line} Sets looked at: {listed(sets)}." for line in lines]


def own_at(ctx: StudyContext, point: HookPoint) -> pd.DataFrame:
    """Rows like those of ``sae_metrics`` of the study's own SAEs at a hook point, as far as they have been evaluated."""
    baselines = {name: evaluation.find_baseline(ctx, name, point) for name in ctx.study.held_out}
    rows = []
    for mix in ctx.study.mixes:
        for expansion in ctx.study.saes.expansions:
            trained = saes.partial(ctx, mix, point, expansion)
            for label, sae in trained.saes.items():
                for name, baseline in baselines.items():
                    if baseline is not None and (evaluated := evaluation.find_evaluation(ctx, sae, baseline)) is not None:
                        rows.append((trained.cell.sae_id(label), name, evaluated))
    return metrics_rows(ctx, rows)
