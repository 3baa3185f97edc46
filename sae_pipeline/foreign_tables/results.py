"""A table of results from elsewhere in our terms: SAEs with their settings, metrics per SAE and evaluation set, and what became of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sae_pipeline.errors import BadInput
from sae_pipeline.foreign_tables.columns import COLUMNS, MEASURED, SETTINGS, Taken, resolve
from sae_pipeline.foreign_tables.reading import ROUNDED, check_ranges, read_file, row_number, typed

NOT_GIVEN = "not given"
"""Name of a mix, set or other setting that the table does not tell."""

FILLED: dict[str, str | float] = {"expansion": 1.0, "d_sae": 1.0, "variant": ""}
"""What stands for a setting that the table does not tell, the same in all rows; otherwise :data:`NOT_GIVEN` or 0."""

FILLED_SPARSITY = 0.0
"""What stands for the sparsity of an SAE of which it is not told, beside others of which it is."""

UNKNOWN_KIND = "unknown"
"""Kind of every evaluation set where the table does not tell; such sets are neither in-sample nor shifted."""


@dataclass(frozen=True, eq=False)
class Results:
    """What a file holds.

    saes: one row per SAE, with ``sae_id``, ``arm``, every setting of :data:`~sae_pipeline.foreign_tables.columns.SETTINGS`, and
        ``k`` (the sparsity; nan where the table does not tell it, and so does not say that the number of active latents was set).
    sae_metrics: one row per SAE and evaluation set: ``sae_id``, ``evaluation_set``, ``kind`` and the metrics of the table.
    """

    path: Path
    saes: pd.DataFrame
    sae_metrics: pd.DataFrame
    taken: tuple[Taken, ...]
    unused: tuple[str, ...]
    """Columns of the file that nothing was taken from."""
    rows: int
    left_out: tuple[tuple[str, int], ...]
    """Why rows were left out, and how many each."""
    derived: tuple[str, ...]
    """What was computed from other columns, a phrase each."""

    @property
    def given(self) -> frozenset[str]:
        """Ids that the table holds or that follow from it."""
        return frozenset(column.id for column in self.taken) | {phrase.split(" ", 1)[0] for phrase in self.derived}

    @property
    def alike(self) -> tuple[str, ...]:
        """Settings that the table does not tell, which therefore count as equal in all rows."""
        return tuple(name for name in SETTINGS if name not in self.given)


def read_results(path: Path, asked: Sequence[str] = ()) -> Results:
    """Read a table of results; see :func:`~sae_pipeline.foreign_tables.columns.resolve` for ``asked``.

    Raises:
        BadInput: what was found cannot be used, in one sentence.
    """
    raw = read_file(path)
    taken, unused = resolve(list(raw.columns), asked, str(path))
    if not {column.id for column in taken} & {"explained_variance", "fvu"}:
        raise BadInput(
            f"{path}: expected a column explained_variance (or fvu), found {', '.join(map(str, raw.columns[:20]))}; name it with --map explained_variance=COLUMN"
        )
    values = pd.DataFrame({column.id: typed(path, raw, column) for column in taken})
    values, derived = _with_derived(values)
    check_ranges(path, values, taken)
    kept, left_out = _usable(values)
    if kept.empty:
        raise BadInput(f"{path}: expected rows that can be used, found none ({_counted(left_out)}); correct the table")
    differing = [name for name in raw.columns if name in unused]
    settings = [name for name in SETTINGS if name in kept.columns]
    kept, repeated = _once_each(path, kept, raw[differing], settings)
    left_out += [("the same as a row before", repeated)] if repeated else []
    saes, sae_metrics = _split(path, kept, settings)
    return Results(path, saes, sae_metrics, tuple(taken), tuple(unused), len(raw), tuple(left_out), tuple(derived))


def _with_derived(values: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What definitions give beyond the columns: explained variance, widths, and L0 as a number from L0 as a share."""
    values = values.copy()
    derived = []
    for name, sources, value in (
        ("explained_variance", ("fvu",), lambda v: 1 - v["fvu"]),
        ("expansion", ("d_sae", "d_model"), lambda v: v["d_sae"] / v["d_model"]),
        ("d_sae", ("expansion", "d_model"), lambda v: (v["expansion"] * v["d_model"]).round()),
        ("l0", ("l0_fraction", "d_sae"), lambda v: v["l0_fraction"] * v["d_sae"]),
        ("l0_fraction", ("l0", "d_sae"), lambda v: v["l0"] / v["d_sae"]),
    ):
        if name not in values and all(source in values for source in sources):
            values[name] = value(values)
            derived.append(f"{name} from {' and '.join(sources)}")
    return values, derived


def _usable(values: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, int]]]:
    """Rows with an explained variance and every setting that the table has a column for; why the others are left out."""
    left_out = []
    if {"sparsity", "architecture"} <= set(values):
        values = values.fillna({"sparsity": FILLED_SPARSITY})  # as of a ReLU SAE among TopK SAEs
    for name in (name for name in values.columns if name in COLUMNS and (name not in MEASURED or name == "explained_variance")):
        unbounded = values[name].isin([np.inf, -np.inf]) & (name not in MEASURED)
        missing = values[name].isna() | unbounded
        if missing.any():
            left_out.append((f"no value of {name}", int(missing.sum())))
            values = values[~missing]
    finite = np.isfinite(values["explained_variance"])
    if not finite.all():
        left_out.append(("explained_variance is not finite", int((~finite).sum())))
        values = values[finite]
    return values, left_out


def _once_each(path: Path, kept: pd.DataFrame, others: pd.DataFrame, settings: list[str]) -> tuple[pd.DataFrame, int]:
    """One row per SAE and evaluation set; how many were dropped because they repeat another in everything that is read.

    Raises:
        BadInput: two rows agree in all settings and differ in their metrics.
    """
    once = kept.drop_duplicates()
    keys = [*settings, *(name for name in ("sae_id", "evaluation_set") if name in once)]
    again = once.duplicated(keys) if keys else pd.Series(np.arange(len(once)) > 0, once.index)
    if again.any():
        second = int(again.index[again.to_numpy()][0])
        same = once[keys].eq(once.loc[second, keys]).all(axis=1) if keys else pd.Series(True, once.index)
        first = int(once.index[same.to_numpy()][0])
        telling = [name for name in others.columns if str(others.loc[first, name]) != str(others.loc[second, name])]
        hint = (
            f"they differ in {', '.join(telling[:5])}: say which setting that is, for example --map variant={telling[0]}"
            if telling
            else "add a column that tells them apart, such as seed, or remove one"
        )
        raise BadInput(
            f"{path}: expected one row per setting and evaluation set, found rows {row_number(path, first)} and {row_number(path, second)} that agree in "
            f"{', '.join(keys) or 'all settings'} and not in their metrics ({int(again.sum())} such rows); {hint}"
        )
    return once, len(kept) - len(once)


def _split(path: Path, kept: pd.DataFrame, settings: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of SAEs with every setting filled in, and the table of metrics."""
    rows = kept.reset_index(drop=True)
    if (width := _width(rows)) is not None:
        rows["variant"] = rows["variant"] + ", " + width if "variant" in rows else width
        settings = list(dict.fromkeys([*settings, "variant"]))
    if "sae_id" in rows:
        described = rows[["sae_id", *settings]].drop_duplicates()
        if described["sae_id"].duplicated().any():
            name = described.loc[described["sae_id"].duplicated(), "sae_id"].iloc[0]
            differing = [column for column in settings if described.loc[described["sae_id"] == name, column].nunique() > 1]
            raise BadInput(
                f"{path}: expected one setting per SAE, found '{name}' with several values of {', '.join(differing)}; correct sae_id or leave it unused with --map sae_id="
            )
    else:
        rows["sae_id"] = _names(rows, settings)
    saes = rows[["sae_id", *settings]].drop_duplicates(ignore_index=True)
    for name, column in SETTINGS.items():
        if name not in saes:
            saes[name] = FILLED.get(name, NOT_GIVEN if column.kind == "text" else 0.0)
        if column.kind == "integer":
            saes[name] = saes[name].astype(int)
    metrics = rows[["sae_id", *(name for name in MEASURED if name in rows)]].copy()
    metrics.insert(1, "evaluation_set", rows.get("evaluation_set", NOT_GIVEN))
    metrics.insert(2, "kind", rows.get("kind", UNKNOWN_KIND))
    if "l0" not in metrics:
        metrics["l0"] = np.nan
    saes["arm"] = saes["sae_id"]
    saes["k"] = saes["sparsity"].where(saes["sparsity"] != FILLED_SPARSITY) if "sparsity" in settings else np.nan
    return saes, metrics


def _width(rows: pd.DataFrame) -> pd.Series | None:
    """In words, a width that keeps SAEs apart and is no expansion factor: of the dictionary, or of activations that differ, as those of two models do."""
    if "expansion" not in rows:
        return "d_sae " + rows["d_sae"].map("{:.0f}".format) if "d_sae" in rows else None
    if "d_model" in rows:
        return "d_model " + rows["d_model"].map("{:.0f}".format) if rows["d_model"].nunique() > 1 else None
    if "d_sae" in rows:
        widths = (rows["d_sae"] / rows["expansion"]).sort_values()
        group = (widths > (1 + ROUNDED) * widths.shift()).cumsum()
        if group.iloc[-1]:
            return ("d_model about " + widths.groupby(group).transform("median").map("{:.0f}".format)).reindex(rows.index)
    return None


def _names(rows: pd.DataFrame, settings: list[str]) -> list[str]:
    """A name for each row's SAE from the settings that vary, those that others tell left out where they are not needed."""
    varying = [name for name in settings if rows[name].nunique() > 1] or settings[:1]
    told_already = ("d_sae", "d_model") if "expansion" in rows else ()
    short = [name for name in varying if name not in told_already]
    distinct = len(rows[settings].drop_duplicates()) if settings else 1
    shown = short if short and len(rows[short].drop_duplicates()) == distinct else varying
    words = [_told(rows[name]) for name in shown]
    return [", ".join(parts) for parts in zip(*words, strict=True)] if words else [NOT_GIVEN] * len(rows)


def _told(values: pd.Series) -> pd.Series:
    """A setting in words, different ones in different words."""
    name = str(values.name)
    kind = COLUMNS[name].kind
    if kind == "text":
        return values.astype(str)
    words = name + " " + values.map(f"{{:{'.0f' if kind == 'integer' else '.15g'}}}".format)
    return words.mask(values == FILLED_SPARSITY, f"{name} {NOT_GIVEN}") if name == "sparsity" else words


def _counted(left_out: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{count} with {reason}" for reason, count in left_out)
