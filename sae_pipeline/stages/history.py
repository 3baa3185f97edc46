"""Evaluations repeated over time: each on a held-out window, recorded for good, and judged against those before it.

A record is a folder of the study's own, not of the store: cleaning up never touches it, and an SAE that was trained again
keeps the figures of its earlier versions. What a record is computed from is in the store as always, so that a window which was
evaluated before costs nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import StorageError
from sae_pipeline.stages import activations, corpora, evaluation, saes, slices, sources, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.pages import is_published, publish_page
from sae_pipeline.store import Artifact, digest, exclusive, storage_errors, write_json
from sae_pipeline.store.fingerprints import file_sha256
from sae_pipeline.study import cells

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.metrics.baselines import Baseline

STAGE = "history"
TABLES = ("evaluation_history", "regressions")
ABOUT, METRICS, DOCUMENTS = "record.json", "metrics.parquet", "documents.parquet"


@dataclass(frozen=True)
class Record:
    """One evaluation of all SAEs on one window."""

    folder: Path
    about: dict[str, Any]
    """``recorded`` (UTC), ``window``, ``text`` (hash of what the window's text and its evaluation follow from), and ``saes``: fingerprint by id,
    without those that diverged."""

    @property
    def covers(self) -> tuple[str, str]:
        """The text, and the SAEs as one hash: evaluating the same again says nothing new."""
        return self.about["text"], digest(self.about["saes"])


def at_window(ctx: StudyContext, window: int) -> StudyContext:
    """The same study with its evaluation sets drawn from another window of the held-out documents."""
    shifted = ctx.study.evaluation.model_copy(update={"window": window})
    return replace(ctx, study=ctx.study.model_copy(update={"evaluation": shifted}), remembered={})


def records(ctx: StudyContext) -> list[Record]:
    """All records of the study, the oldest first."""
    folder = ctx.home.history(ctx.study.name)
    with storage_errors(folder):
        found = [Record(path.parent, about(path)) for path in folder.glob(f"[!.]*/{ABOUT}")]
    return sorted(found, key=lambda record: (record.about["recorded"], record.folder.name))


def about(path: Path) -> dict[str, Any]:
    """What a record says of itself.

    Raises:
        StorageError: the file is no such record.
    """
    try:
        told = json.loads(path.read_text())
    except ValueError:
        told = None
    if isinstance(told, dict) and {"recorded", "window", "text", "saes"} <= told.keys():
        return told
    raise _damaged(path)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError) as error:  # what pyarrow makes of other bytes depends on where they are
        raise _damaged(path) from error


def _damaged(path: Path) -> StorageError:
    return StorageError(
        f"{path}: expected the record of an evaluation, found something else; put a copy of it back or move its folder away, then run again"
    )


def check(folder: Path) -> None:
    """Read all of a record.

    Raises:
        StorageError: one of its files is none of a record's.
    """
    about(folder / ABOUT)
    for name in (METRICS, DOCUMENTS):
        _table(folder / name)


def _text(ctx: StudyContext, window: int) -> str:
    """Hash of everything that decides which documents of a window are read and how SAEs are evaluated on them."""
    study = at_window(ctx, window).study
    sets = {name: slices.held_out_corpus(study, name) for name in study.held_out}
    versions = {name: sources.data_version(ctx, name) for part in sets.values() for name in part["sources"]}
    stages = [slices.VERSIONS[stage] for stage in ("corpus", "activations", "baselines", "evaluations")]
    return digest(sets, versions, slices.activations(study), slices.baselines(study), stages, subject.need(ctx).artifact.fingerprint)


def fresh_window(ctx: StudyContext) -> int:
    """The window that the SAEs as they are have been evaluated on least often; of several the first after the study's own."""
    windows, own = ctx.study.corpus.held_out_windows, ctx.study.evaluation.window
    current = digest(_fingerprints(ctx))
    recorded = [record.covers for record in records(ctx)]
    times = {window: recorded.count((_text(ctx, window), current)) for window in range(windows)}
    return min(times, key=lambda window: (times[window], (window - own) % windows))


def is_recorded(ctx: StudyContext) -> bool:
    """Whether the SAEs as they are have been evaluated on the study's own window, or cannot be told yet."""
    found = [saes.find(ctx, cell.mix, cell.point, cell.expansion) for cell in cells(ctx.study)]
    if any(cell is None for cell in found):
        return True
    return (_text(ctx, ctx.study.evaluation.window), digest(_fingerprints(ctx))) in {record.covers for record in records(ctx)}


def _fingerprints(ctx: StudyContext) -> dict[str, str]:
    trained = (saes.need(ctx, cell.mix, cell.point, cell.expansion) for cell in cells(ctx.study))
    return {found.cell.sae_id(label): sae.fingerprint for found in trained for label, sae in found.saes.items()}


def evaluate(ctx: StudyContext, window: int) -> tuple[Record, bool]:
    """Evaluate every SAE of the study on a window and record it; whether it is new.

    The same SAEs on text that has a record are not recorded again: nothing new could be said.
    """
    shifted = at_window(ctx, window)
    fingerprints, text = _fingerprints(ctx), _text(ctx, window)
    for record in reversed(records(ctx)):
        if record.covers == (text, digest(fingerprints)):
            return record, False
    for name in shifted.study.held_out:
        corpora.build(shifted, f"held_out/{name}")
        activations.harvest(shifted, f"held_out/{name}", shifted.study.hook_points)
        for point in shifted.study.hook_points:
            evaluation.measure_baseline(shifted, name, point)
    metrics, documents = _measured(shifted)
    return _write(ctx, {"window": window, "text": text, "saes": fingerprints}, metrics, documents), True


def _measured(ctx: StudyContext) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics of every SAE and set, and per document its squared errors (``sse``) and the variance they are a share of (``sst``)."""
    import pandas as pd

    from sae_pipeline.metrics.baselines import Baseline

    metrics: list[pd.DataFrame] = []
    documents: list[pd.DataFrame] = []
    for cell in cells(ctx.study):
        found = evaluation.evaluate(ctx, cell.mix, cell.point, cell.expansion).artifact
        variance = {name: _variance(Baseline.load(evaluation.need_baseline(ctx, name, cell.point))) for name in ctx.study.held_out}
        sums = ["arm", "evaluation_set", "document", "document_hash", "n", "sse"]
        for into, file, columns in ((metrics, "metrics", None), (documents, "document_sums", sums)):
            frame = pd.read_parquet(found.file(f"{file}.parquet"), columns=columns)
            frame.insert(0, "sae_id", [cell.sae_id(label) for label in frame.pop("arm")])
            into.append(frame)
        here = documents[-1]
        here["sst"] = [variance[name][document] for name, document in zip(here["evaluation_set"], here.pop("document"), strict=True)]
    return pd.concat(metrics, ignore_index=True), pd.concat(documents, ignore_index=True)


def _variance(baseline: Baseline) -> dict[int, float]:
    """Sum of |x - mu|^2 over each document's tokens by its number, mu being the mean of the whole set.

    Not by its hash: a set of several sources may hold one text twice.
    """
    sums, vectors = baseline.documents, baseline.sum_x.numpy()
    mean = vectors.sum(0) / sums["n"].sum()
    centred = sums["sum_sq"].to_numpy() - 2 * vectors @ mean + sums["n"].to_numpy() * (mean @ mean)
    return dict(zip(sums["document"].tolist(), centred.tolist(), strict=True))


def _write(ctx: StudyContext, of: dict[str, Any], metrics: pd.DataFrame, documents: pd.DataFrame) -> Record:
    recorded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"recorded": recorded} | of
    parent = ctx.home.history(ctx.study.name)
    draft = parent / ".draft"
    with storage_errors(parent, missing=True), exclusive(ctx.home.locks / f"history-{ctx.study.name}.lock"):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        metrics.to_parquet(draft / METRICS, index=False)
        documents.to_parquet(draft / DOCUMENTS, index=False)
        write_json(draft / ABOUT, about)
        name = f"{recorded.replace(':', '')}-w{of['window']:03d}"
        target = next(path for n in range(10_000) if not (path := parent / (name if n == 0 else f"{name}-{n}")).exists())
        draft.rename(target)
    return Record(target, about)


# ------------------------------------------------------------------------------------------------ what the records say together


def _identity(ctx: StudyContext, found: list[Record]) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.history(ctx.study),
        "records": {record.folder.name: file_sha256(record.folder / METRICS) for record in found},
        "saes": found[-1].about["saes"],
        "declared": _declared(ctx),
    }
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def _declared(ctx: StudyContext) -> list[str]:
    """Ids of the SAEs that the study declares, those that diverged among them."""
    return sorted(cell.sae_id(label) for cell in cells(ctx.study) for label in cell.arms)


def find(ctx: StudyContext) -> Artifact | None:
    """The history as far as it is recorded, if it has been gathered."""
    found = records(ctx)
    return ctx.store.find(STAGE, _identity(ctx, found)[0]) if found else None


def is_gathered(ctx: StudyContext) -> bool:
    """Whether all records are in one table whose page is where the user looks for it."""
    if not records(ctx):
        return True
    artifact = find(ctx)
    return artifact is not None and is_published(artifact, ctx.home.history_page(ctx.study.name).parent, under="page/")


def gather(ctx: StudyContext) -> Artifact:
    """All records in one table, what got worse in the latest of them, and the page that shows both."""
    found = records(ctx)
    fingerprint, inputs = _identity(ctx, found)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            artifact = draft
        else:
            from sae_pipeline.analysis.regressions import regressions
            from sae_pipeline.reports.build import write_report
            from sae_pipeline.reports.history import history_report

            changes = regressions([_loaded(record) for record in found], declared=_declared(ctx), **slices.history(ctx.study))
            frames = dict(zip(TABLES, (history_rows(found), changes), strict=True))
            for name, frame in frames.items():
                frame.to_parquet(draft.path / f"{name}.parquet", index=False)
            page = draft.path / "page"
            page.mkdir()
            write_report(page, history_report(ctx.study.name, *frames.values(), tolerance=ctx.study.schedules.tolerance))
            artifact = draft.publish({"records": len(found), "regressions": int(frames["regressions"]["worse"].sum())})
    publish_page(ctx, artifact, ctx.home.history_page(ctx.study.name).parent, under="page/")
    return artifact


def plots(gathered: Artifact) -> list[Path]:
    """The figures of the page, one per evaluation set."""
    return [gathered.file(name) for name in sorted(gathered.manifest["files"]) if name.startswith("page/figures/") and name.endswith(".png")]


def history_rows(found: list[Record]) -> pd.DataFrame:
    """One row per record, SAE and evaluation set: ``recorded``, ``held_out_window``, ``fingerprint`` of the SAE, and every metric."""
    import pandas as pd

    frames = []
    for record in found:
        frame = _table(record.folder / METRICS)
        frame.insert(0, "recorded", record.about["recorded"])
        frame.insert(1, "held_out_window", record.about["window"])
        frame.insert(3, "fingerprint", frame["sae_id"].map(record.about["saes"]))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _loaded(record: Record) -> tuple[dict[str, Any], pd.DataFrame]:
    return record.about, _table(record.folder / DOCUMENTS)
