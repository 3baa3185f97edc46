"""Opening a table of results: CSV or Parquet, as columns of values that nothing has been guessed about yet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from sae_pipeline.errors import BadInput
from sae_pipeline.foreign_tables.columns import COLUMNS, MEASURED, Taken
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.study.section import Kind

ROUNDED = 0.05
"""How far apart two ways to a width may lie, of it: expansion factors are often rounded."""

SEPARATORS = ",;\t|"
MISSING = {"", "na", "n/a", "nan", "none", "null", "-", "–", "—"}
"""Texts, in any case, that stand for no value."""


def read_file(path: Path) -> pd.DataFrame:
    """The file's columns, in its order; every value of a CSV file is text.

    Raises:
        BadInput: no file, no table, no rows, or two columns of one name.
    """
    if not path.is_file():
        raise BadInput(f"{path}: expected a CSV or Parquet file, found {'a folder' if path.is_dir() else 'nothing'}; check the path")
    if path.suffix.lower() in (".parquet", ".pq"):
        frame = _parquet(path)
    elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
        frame = _separated(path)
    else:
        raise BadInput(f"{path}: expected a file ending in .csv, .tsv or .parquet, found '{path.suffix}'; convert or rename it")
    if frame.empty:
        raise BadInput(f"{path}: expected rows of results, found {'columns only' if len(frame.columns) else 'an empty file'}; check the file")
    return frame


def row_number(path: Path, index: int) -> int:
    """Where a row is found again: the line of a CSV file (blank ones not counted), or the row of a Parquet file from 1."""
    return index + 1 if path.suffix.lower() in (".parquet", ".pq") else index + 2


def typed(path: Path, frame: pd.DataFrame, column: Taken) -> pd.Series:
    """A column's values in our unit: text as object, numbers as float64; missing values are nan.

    Raises:
        BadInput: text where numbers belong, or a fraction where whole numbers do.
    """
    values = frame[column.name]
    kind = COLUMNS[column.id].kind
    text = values.map(lambda value: "" if pd.isna(value) else str(value).strip())
    given = ~text.str.casefold().isin(MISSING)
    if kind == "text":
        return text.where(given, np.nan)
    numbers = pd.to_numeric(text.where(given), errors="coerce").astype(float)
    wrong = given & numbers.isna()
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        raise BadInput(
            f"{path}, row {row_number(path, where)}: column {column.name} ({column.id}): expected a number, found '{text.iloc[where]}'"
            f"{_more(int(wrong.sum()))}; correct it, or leave the column unused with --map {column.id}="
        )
    numbers = numbers * column.factor
    if kind == "integer":
        rounded = numbers.round()
        odd = numbers.notna() & np.isfinite(numbers) & ((numbers - rounded).abs() > 1e-6 * rounded.abs().clip(lower=1))
        if odd.any():
            where = int(np.flatnonzero(odd)[0])
            unit = f", or give its unit, for example --map {column.id}={column.name}*1e6 where it is in millions" if column.id == "tokens" else ""
            raise BadInput(
                f"{path}, row {row_number(path, where)}: column {column.name} ({column.id}): expected a whole number, found {_as_in_file(numbers.iloc[where], column)}"
                f"{_more(int(odd.sum()))}; correct it{unit}"
            )
        numbers = rounded
    return numbers


def check_ranges(path: Path, values: pd.DataFrame, taken: Sequence[Taken]) -> None:
    """Refuse values that the definition of a metric or setting excludes: their unit is another.

    Raises:
        BadInput: as said.
    """
    columns = {column.id: column for column in taken}
    names = {column.id: column.name for column in taken}
    for name in (name for name in MEASURED if name in names):
        low, high = METRICS[name].range
        finite = values[name].where(np.isfinite(values[name]))
        wrong = (finite < low - 1e-9) | (finite > high + 1e-9)
        if wrong.any():
            row, factor = int(np.flatnonzero(wrong)[0]), columns[name].factor
            unit = METRICS[name].unit.removeprefix("1") if factor == 1 else ""
            remedy = (
                f"give its unit, for example --map {name}={names[name]}/100 where it is in per cent"
                if factor == 1
                else f"correct it, or give its unit with --map {name}={names[name]}, for it was taken times {factor:g}"
            )
            raise BadInput(
                f"{path}, row {row_number(path, row)}: column {names[name]} ({name}): expected {low / factor:g} to {high / factor:g} {unit}".rstrip()
                + f", found {_as_in_file(values[name].iloc[row], columns[name])}; {remedy}"
            )
    for name in (name for name in ("expansion", "d_sae", "d_model", "tokens", "sparsity") if name in names):
        if (values[name] <= 0).any():
            row = int(np.flatnonzero(values[name] <= 0)[0])
            raise BadInput(
                f"{path}, row {row_number(path, row)}: column {names[name]} ({name}): expected a number above 0, found {_as_in_file(values[name].iloc[row], columns[name])}; "
                f"correct it{', or leave it empty where it was not set' if name == 'sparsity' else ''}"
            )
    if {"expansion", "d_sae", "d_model"} <= set(names):
        apart = (values["d_sae"] / (values["expansion"] * values["d_model"]) - 1).abs() > ROUNDED
        if apart.any():
            row = int(np.flatnonzero(apart)[0])
            told = ", ".join(f"{names[name]} {_as_in_file(values[name].iloc[row], columns[name])}" for name in ("expansion", "d_sae", "d_model"))
            raise BadInput(
                f"{path}, row {row_number(path, row)}: expected d_sae to be expansion times d_model, found {told}; correct one, or leave it unused with --map d_model="
            )
    if "kind" in values and not (found := set(values["kind"].dropna())) <= set(get_args(Kind)):
        raise BadInput(
            f"{path}: column {names['kind']} (kind): expected one of {', '.join(get_args(Kind))}, found '{sorted(found - set(get_args(Kind)))[0]}'; correct it"
        )
    if {"kind", "evaluation_set"} <= set(values):
        kinds = values.dropna(subset=["kind"]).groupby("evaluation_set")["kind"].unique()
        several = kinds[kinds.map(len) > 1]
        if len(several):
            raise BadInput(
                f"{path}: column {names['kind']} (kind): expected one kind per evaluation set, found {' and '.join(sorted(several.iloc[0]))} for '{several.index[0]}'; "
                "correct it, or leave it unused with --map kind= and say which mix is of which set's kind with --in-domain"
            )


def _as_in_file(value: float, column: Taken) -> str:
    """A value in our unit as its column has it."""
    return f"{value / column.factor:g}"


def _more(count: int) -> str:
    return f" and {count - 1} more like it" if count > 1 else ""


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow

    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise BadInput(f"{path}: expected a Parquet file, found something else ({str(error).splitlines()[0]}); check the file") from None


def _separated(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: expected text in UTF-8, found other bytes; save the table as UTF-8") from None
    head = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=head.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadInput(f"{path}: expected a table of separated values, found {error}; check separators and quotes") from None
    if not rows:
        return pd.DataFrame()
    names = [name.strip() for name in rows[0]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadInput(f"{path}: expected each column once, found '{repeated[0]}' {names.count(repeated[0])} times; rename one of them")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise BadInput(f"{path}, row {number}: expected {len(names)} values as in the first line, found {len(row)}; check separators and quotes")
    return pd.DataFrame(rows[1:], columns=names, dtype=object)
