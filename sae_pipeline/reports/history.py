"""The page of a study's repeated evaluations: explained variance over time, and what got worse."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from sae_pipeline.reports.blocks import Cell, Plot, Report, Section, Table, text_row
from sae_pipeline.reports.style import named_colours, styled
from sae_pipeline.reports.wording import counted, decimal, interval, signed

MOST_LINES = 40
"""SAEs a reader can still follow in one figure; its CSV holds all."""


def history_report(study: str, history: pd.DataFrame, regressions: pd.DataFrame, *, tolerance: float) -> Report:
    """The records of a study as a page.

    Args:
        study: its name.
        history: the table ``evaluation_history``.
        regressions: the table ``regressions``.
        tolerance: the fall of explained variance that counts as none.
    """
    times, windows = history["recorded"].nunique(), history["held_out_window"].nunique()
    return Report(
        name=f"{study}: evaluations over time",
        description="",
        headline=None,
        headline_sentence=_headline(times, regressions, tolerance),
        facts=(("evaluations", str(times)), ("held-out windows", str(windows)), ("SAEs", str(history["sae_id"].nunique()))),
        heat=(),
        sections=(_over_time(history), _worse(regressions)),
    )


def _headline(times: int, regressions: pd.DataFrame, tolerance: float) -> str:
    lost = int((regressions["worse"] & regressions["after"].isna()).sum())
    fell = int(regressions["worse"].sum()) - lost
    without = f"{counted(lost, 'comparison')} of {len(regressions)} had a value before and has none in the latest evaluation." if lost else ""
    if fell:
        said = f"{counted(fell, 'comparison')} of {len(regressions)} in the latest evaluation fell by more than {tolerance:g} of explained variance."
        return f"{said} {without}".strip()
    if lost:
        return without
    if len(regressions):
        return (
            f"No fall of explained variance beyond {tolerance:g} is clear in the latest evaluation, out of {counted(len(regressions), 'comparison')}."
        )
    if times > 1:
        return "No earlier evaluation shares its SAEs or its text with the latest, so there is nothing to compare it with."
    return "There is one evaluation, so nothing to compare it with."


def _over_time(history: pd.DataFrame) -> Section:
    plots = tuple(
        Plot(
            f"history_{number}",
            f"Explained variance on {name}, evaluation by evaluation",
            "A line per SAE; a mark is hollow where the SAE had been trained again since the evaluation before. Windows hold different documents.",
            here[["recorded", "held_out_window", "sae_id", "fingerprint", "explained_variance", "l0"]],
            partial(_draw, here, str(name)),
        )
        for number, (name, here) in enumerate(history.groupby("evaluation_set", sort=False))
    )
    return Section("history", "Over time", plots=plots)


def _draw(here: pd.DataFrame, name: str) -> Figure:
    saes = list(dict.fromkeys(here["sae_id"]))[:MOST_LINES]
    times = sorted(set(here["recorded"]))
    colours = named_colours(saes)
    with styled():
        fig = Figure(figsize=(7.5, 3.6), layout="constrained")
        ax = fig.subplots()
        for sae_id in saes:
            line = here[here["sae_id"] == sae_id].sort_values("recorded")
            x = [times.index(recorded) for recorded in line["recorded"]]
            again = line["fingerprint"].ne(line["fingerprint"].shift()) & (pd.Series(x, line.index) != x[0])
            faces = ["white" if new else colours[sae_id] for new in again]
            ax.plot(x, line["explained_variance"], color=colours[sae_id], linewidth=1)
            ax.scatter(x, line["explained_variance"], c=faces, edgecolors=colours[sae_id], s=22, zorder=3)
        ax.set_xticks(range(len(times)), [recorded[:10] for recorded in times], rotation=30)
        ax.set(xlabel="recorded (UTC)", ylabel="explained variance (share of 1)", title=name)
        return fig


def _worse(regressions: pd.DataFrame) -> Section:
    columns = ("SAE", "evaluation set", "compared", "before", "after", "change", "interval", "documents", "verdict", "note")
    ordered = regressions.sort_values(["worse", "change"], ascending=[False, True], kind="stable")
    rows = tuple(
        text_row(
            row["sae_id"], row["evaluation_set"], f"{row['compared']} ({row['against'][:10]}, window {row['against_window']})",
            Cell(decimal(row["before"], 4), row["before"]), Cell(decimal(row["after"], 4), row["after"]), Cell(signed(row["change"], 4), row["change"]),
            interval(row["low"], row["high"], 4), Cell(str(row["documents"]), row["documents"]),
            Cell("worse" if row["worse"] else "no worse", mark="poor" if row["worse"] else "good"), row["note"],
        ) for row in ordered.to_dict("records")
    )  # fmt: skip
    said = ("A new version is paired by document with the one before it; on other text each side is resampled on its own.",)
    return Section(
        "regressions",
        "What changed",
        said if rows else ("Nothing to compare yet.",),
        tables=(Table("Changes in the latest evaluation", columns, rows),) if rows else (),
    )
