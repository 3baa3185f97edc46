"""Bytes that change, are cut off or go missing, and things that are not what they should be."""

from __future__ import annotations

from fault_cases import (
    Case,
    Disturb,
    at,
    cut,
    damaged,
    damaged_draft,
    empty,
    file_instead,
    flip,
    folder_instead,
    of,
    of_draft,
    remove,
    trapped,
    write,
)
from fault_kills import KILL
from fault_study import Place


def doctor(place: Place) -> None:
    """Do as the sentence says: repair."""
    place.command("doctor", "--repair")


def mended(name: str, disturb: Disturb, redo: tuple[str, ...] = (), told: str = "", remeasured: bool = False) -> Case:
    """A case in which the run itself mends what it finds."""
    return Case(name=name, kind="corrupt", redo=redo, disturb=disturb, code=0, told=told, remeasured=remeasured)


PROGRESS, CHECKPOINT = "store/.partial/activations/*/.progress.json", "store/.partial/saes/*/checkpoint.safetensors"

CASES = [
    mended("a bit of the subject model's weights flips", damaged(of("subject", "checkpoint/model.safetensors", flip)), ("store/activations", "store/baselines")),
    mended("a bit of a corpus flips", damaged(of("corpus", "tokens.safetensors", flip)), ("store/activations", "store/baselines", "store/positions")),
    mended("a bit of a shard of activations flips", damaged(of("activations", "shard-00000.safetensors", flip)), ("store/saes", "store/baselines")),
    mended("the sums of a baseline are emptied", damaged(of("baselines", "sums.safetensors", empty))),
    mended("a bit of an SAE's weights flips", damaged(of("saes", "sae_weights.safetensors", flip)), ("store/evaluations", "store/metrics")),
    mended("the manifest of an evaluation is garbage", damaged(of("evaluations", "manifest.json", write("garbage")))),
    mended("the manifest of a scorecard is gone", damaged(of("scorecard", "manifest.json", remove))),
    mended("the manifest of a matching is JSON of another shape", damaged(of("matching", "manifest.json", write("[1, 2]")))),
    mended("the manifest of concepts has no checksums", damaged(of("concepts", "manifest.json", write('{"files": {"a": {}}, "content": 1}')))),
    mended("an artifact of tables is an empty folder", damaged(lambda place: [remove(file) for file in place.artifact("tables").iterdir()])),
    mended("a file lies where findings had a folder", damaged(lambda place: file_instead(place.artifact("findings")))),
    mended("the whole store is gone", damaged(at("store", remove)), remeasured=True),
    mended("the warehouse is garbage", damaged(at("studies/toy/warehouse.duckdb", write("garbage")))),
    mended("the report's page is emptied", damaged(at("studies/toy/report/index.html", empty))),
    mended("a figure of the report is gone", damaged(at("studies/toy/report/figures/*", remove))),
    mended("the file of dense latents is cut in half", damaged(at("studies/toy/dense_latents.json", cut))),
    mended("the copies of earlier warehouses are gone", damaged(at("studies/toy/history/versions/*.duckdb", remove)), remeasured=True),
    mended("rows kept of a hub have a flipped bit", damaged(at("store/spool/*/part-00000.parquet", flip)), ("store/corpus",)),
    mended(
        "the journal of a half-packed corpus has a flipped bit",
        damaged_draft(trapped("rename", "store/.partial/corpus/*/manifest.json", KILL), of_draft("corpus", ".journal.json", flip)), ("store/corpus",),
    ),
    mended(
        "a shard of a half-finished harvest has a flipped bit",
        damaged_draft(trapped("rename", PROGRESS, KILL, (4, 6)), of_draft("activations", "shard-00000.safetensors", flip)), ("store/activations",),
    ),
    mended(
        "a checkpoint is cut in half", damaged_draft(trapped("rename", CHECKPOINT, KILL, (3, 6)), of_draft("saes", "checkpoint.safetensors", cut)),
        ("store/saes",), told="training starts over",
    ),
    mended("Dagster's settings are emptied", damaged(at("dagster/dagster.yaml", empty))),
    Case(
        name="Dagster's settings are garbage", kind="corrupt", disturb=damaged(at("dagster/dagster.yaml", write(": [garbage"))), code=1,
        told="expected settings that Dagster accepts", remedy=at("dagster/dagster.yaml", remove),
    ),
    Case(
        name="Dagster's event log is garbage", kind="corrupt", disturb=damaged(at("dagster/history/runs/index.db", write("garbage" * 999))),
        code=1, told="put it aside with `sae-pipeline doctor --repair`", remedy=doctor,
    ),
    mended("Dagster's event log is gone", damaged(at("dagster", remove))),
    Case(
        name="a lock is a folder", kind="corrupt", disturb=damaged(at("locks/dagster-home.lock", folder_instead)), code=1,
        told="expected a file, found a folder; move that away", remedy=at("locks/dagster-home.lock", remove),
    ),
    Case(
        name="the folder of locks is a file", kind="corrupt", disturb=damaged(at("locks", file_instead)), code=1,
        told="expected a folder that can be written, found a file in its place; move that away", remedy=at("locks", remove),
    ),
    Case(
        name="the record of an evaluation is garbage", kind="corrupt", code=1, told="put a copy of it back or move its folder away", remeasured=True,
        disturb=damaged(at("studies/toy/history/records/*/record.json", write("garbage"))), remedy=at("studies/toy/history/records/*", remove),
    ),
]  # fmt: skip
