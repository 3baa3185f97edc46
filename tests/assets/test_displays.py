"""What an event shows: small pictures, short tables, columns with their meaning, and chains that count what they do not name."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster._serdes import serialize_value
from PIL import Image

from assets.displays import columns_of, lineage, picture, rows_of, table
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.stages.chain import Link


def link(what: str, stage: str, made_from: tuple[str, ...] = (), text: tuple[dict, ...] = ()) -> Link:
    return Link(
        what, stage, f"hash of {what}", "content", "2026-01-01T00:00:00Z", 1.0, "here", {"torch": "2.13.0", "numpy": "2.4.6"}, made_from, text
    )


def test_a_figure_becomes_a_picture_of_a_few_kilobytes() -> None:
    from matplotlib.figure import Figure

    written = io.BytesIO()
    figure = Figure(figsize=(10, 7), dpi=140)
    figure.subplots().imshow([[0.1, 0.5], [0.9, 0.3]])
    figure.savefig(written, format="png")
    shown = picture(written.getvalue(), "a figure").value
    assert shown.startswith("![a figure](data:image/png;base64,")
    assert len(shown) < 50_000
    small = Image.open(io.BytesIO(base64.b64decode(shown.partition("base64,")[2].rstrip(")"))))
    assert small.size == (1_000, 700)


def test_a_table_rounds_and_ends_after_sixty_rows() -> None:
    shown = table({"name": f"row {n}", "share": 0.123456, "missing": float("nan"), "count": 1_234_567} for n in range(1_000))
    assert shown is not None
    assert len(shown.records) == 60
    assert shown.records[0].data == {"name": "row 0", "share": 0.1235, "missing": None, "count": 1_234_567}


def test_no_rows_are_no_table() -> None:
    assert table([]) is None
    assert lineage([]) is None


def test_columns_say_what_a_metric_means_and_rows_are_counted(tmp_path: Path) -> None:
    pd.DataFrame({"sae_id": ["a", "b"], "explained_variance": [0.5, 0.7]}).to_parquet(tmp_path / "metrics.parquet")
    schema = columns_of(tmp_path / "metrics.parquet")["dagster/column_schema"]
    assert [column.name for column in schema.columns] == ["sae_id", "explained_variance"]
    assert schema.columns[1].type == "double"
    assert [column.description for column in schema.columns] == [None, METRICS["explained_variance"].description]
    assert rows_of(tmp_path / "metrics.parquet") == {"dagster/row_count": 2}
    assert rows_of(tmp_path / "metrics.parquet", partition=True) == {"dagster/partition_row_count": 2}


def test_a_chain_begins_with_the_sources_and_counts_what_it_does_not_name() -> None:
    read = {"source": "prose", "commit": None, "data_version": "version of the text", "documents": 1_200, "tokens": 40_000}
    chain = [link("PRE/corpus", "corpus", text=(read,)), *(link(f"PRE.L00.x02.{n}", "saes", ("PRE/corpus",)) for n in range(11))]
    shown = lineage(chain)
    assert shown is not None
    rows = [record.data for record in shown.records]
    assert [row["stage"] for row in rows] == ["source", "corpus", *["saes"] * 9]
    assert rows[0] == {
        "stage": "source", "what": "prose", "hash": "version of the text", "made_from": "1,200 documents, 40,000 tokens of PRE/corpus",
        "created": "", "made_with": "",
    }  # fmt: skip
    assert rows[1]["made_from"] == "the study file"
    assert rows[2] == {
        "stage": "saes", "what": "PRE.L00.x02.0", "hash": "hash of PRE.L00.x02.0", "made_from": "PRE/corpus", "created": "2026-01-01T00:00:00Z",
        "made_with": "numpy 2.4.6, torch 2.13.0",
    }  # fmt: skip
    assert rows[-1]["what"] == "and 3 more"


def test_a_chain_of_a_large_study_stays_under_a_hundred_kilobytes() -> None:
    stages = ("corpus", "activations", "baselines", "saes", "evaluations", "metrics", "scorecard", "matching", "tables", "findings")
    chain = [link(f"{stage} {n}", stage, tuple(f"{stage} {m}" for m in range(200))) for stage in stages for n in range(200)]
    shown = lineage(chain)
    assert isinstance(shown, dg.TableMetadataValue)
    assert len(json.dumps(serialize_value(shown))) < 100_000
