"""What a materialisation shows beside its figures: pictures, tables with the meaning of their columns, the chain back to the text.

An event is kept for ever and read whole by every page that mentions it, so each stays under 100 kB: pictures have a small
palette, tables their first rows. The files that ``path`` names hold everything.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from sae_pipeline.stages.chain import Link

WIDTH = 1_000
"""Most pixels of a picture from left to right, as wide as the UI shows it."""

COLOURS = 48
"""Colours of a picture: enough for a figure's lines and maps at a third of the bytes."""

ROWS = 60
"""Most rows of a table."""

LINKS_PER_STAGE = 8
"""Most artifacts of one stage that a chain names one by one."""

Value = str | int | float | bool | None


def picture(png: bytes, says: str) -> dg.MarkdownMetadataValue:
    """A figure inside the event, as Markdown; ``says`` is read where it cannot be seen."""
    from PIL import Image

    small = Image.open(io.BytesIO(png)).convert("RGB")
    small.thumbnail((WIDTH, WIDTH))
    written = io.BytesIO()
    small.quantize(COLOURS).save(written, "png", optimize=True)
    return dg.MetadataValue.md(f"![{says}](data:image/png;base64,{base64.b64encode(written.getvalue()).decode()})")


def table(rows: Iterable[Mapping[Any, Any]]) -> dg.TableMetadataValue | None:
    """The first rows as a table with four significant digits; None where there are none."""
    records = [dg.TableRecord({str(name): _value(value) for name, value in row.items()}) for row in islice(rows, ROWS)]
    return dg.MetadataValue.table(records) if records else None


def rows_of(path: Path, *, partition: bool = False) -> dict[str, int]:
    """Number of rows of a Parquet file, of the asset or of one partition, under the name the UI looks for."""
    from pyarrow.parquet import read_metadata

    return {"dagster/partition_row_count" if partition else "dagster/row_count": read_metadata(path).num_rows}


def columns_of(path: Path) -> dict[str, dg.TableSchema]:
    """Columns of a Parquet file, metrics with their meaning, under the name the UI looks for."""
    from pyarrow.parquet import read_schema

    from sae_pipeline.metrics.registry import METRICS

    said = {name: metric.description for name, metric in METRICS.items()}
    return {
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(field.name, str(field.type), said.get(field.name)) for field in read_schema(path)])
    }


def lineage(links: Sequence[Link]) -> dg.TableMetadataValue | None:
    """A chain from the text on: what, by which hash, from what, when and with which versions.

    Of a stage with many artifacts the first few are named and the others counted.
    """
    sources = [
        _row(
            "source",
            read["source"],
            f"{read['documents']:,} documents, {read['tokens']:,} tokens of {link.what}",
            read["commit"] or read["data_version"],
        )
        for link in links
        for read in link.text
    ]
    rows = sources[:LINKS_PER_STAGE]
    for stage in dict.fromkeys(link.stage for link in links):
        here = [link for link in links if link.stage == stage]
        for link in here[:LINKS_PER_STAGE]:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(link.libraries.items()))
            rows.append(_row(stage, link.what, _first(link.made_from, 4) or "the study file", link.fingerprint, link.created, versions))
        if len(here) > LINKS_PER_STAGE:
            rows.append(_row(stage, f"and {len(here) - LINKS_PER_STAGE} more"))
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else None


def _row(stage: str, what: str, made_from: str = "", named: str = "", created: str = "", made_with: str = "") -> dict[str, str]:
    return {"stage": stage, "what": what, "made_from": made_from, "hash": named, "created": created, "made_with": made_with}


def _first(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _value(value: Any) -> Value:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
