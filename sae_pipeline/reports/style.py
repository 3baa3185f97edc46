"""How figures look: one palette per dimension of a study, fixed fonts, and PNG bytes that depend on the figure alone.

Palettes keep apart what is told apart by order (layers, expansions, explained variance: perceptually uniform maps) and by
name (mixes, verdicts, marks: colours that stay distinct under the common colour blindnesses). Whatever a colour says is
also said by a marker, a position or a word.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

DPI = 140
"""Dots per inch of the PNG: sharp on a high-density phone at the width the page gives it, about 100 kB a figure."""

VALUES = "YlGnBu"
"""Map of explained variance in the matrices: light to dark, one direction, so that it also reads in grey."""

SEABORN = {
    "flare": ("#edb081", "#e98d6b", "#e3685c", "#d14a61", "#b13c6c", "#8f3371", "#6c2b6d", "#4b2362"),
    "mako": ("#0b0405", "#2e1e3b", "#413d7b", "#37659e", "#348fa7", "#40b7ad", "#8bdab2", "#def5e5"),
}
"""Maps that matplotlib lacks, at eight evenly spaced places (Waskom 2021, seaborn)."""

RANGES = {
    "layer": ("viridis", 0.05, 0.72),
    "expansion": ("plasma", 0.05, 0.82),
    "position": ("flare", 0.0, 1.0),
    "quantile": ("mako", 0.1, 0.85),
    "place": ("cividis", 0.0, 0.85),
}
"""Map and the part of it used for each ordered dimension; the pale ends vanish on white."""

NAMED = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#4D4D4D")
"""Colours of named things (Okabe and Ito 2008; yellow replaced, it vanishes on white)."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

CHANCE = "#8A8A8A"
"""Colour of what is expected by chance."""

VERDICT_COLOURS = {"supported": "#1B7F4B", "contradicted": "#B3261E", "inconclusive": "#6B6B6B", "not_testable": "#6B6B6B"}

MARK_COLOURS = {
    "good": ("#1B7F4B", "#ffffff"),
    "acceptable": ("#A9D8B5", "#111111"),
    "warning": ("#F2C14E", "#111111"),
    "poor": ("#C0392B", "#ffffff"),
    "not_judged": ("#DDDDDD", "#111111"),
}
"""Background and text colour of each health mark, best first."""

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#7A7A7A",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.titlesize": 12.5,
    "lines.linewidth": 1.8,
    "errorbar.capsize": 2.5,
    "text.parse_math": False,  # a name with two dollar signs is a name
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's defaults with the settings above, whatever the user's own configuration says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def colour_map(name: str) -> Colormap:
    """A map of matplotlib's, or of :data:`SEABORN`."""
    return LinearSegmentedColormap.from_list(name, SEABORN[name]) if name in SEABORN else mpl.colormaps[name]


def ordered_colours(dimension: str, values: Iterable[float]) -> dict[float, str]:
    """A colour per value of an ordered dimension (a key of :data:`RANGES`), in increasing order along its map."""
    name, low, high = RANGES[dimension]
    colours = colour_map(name)
    levels = sorted(set(values))
    step = (high - low) / max(len(levels) - 1, 1)
    return {level: to_hex(colours(low + step * n)) for n, level in enumerate(levels)}


def named_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per name in the order given; beyond eight names the colours come round again (markers tell them apart)."""
    return {name: NAMED[n % len(NAMED)] for n, name in enumerate(names)}


def markers(names: Sequence[str]) -> dict[str, str]:
    """A marker per name in the order given."""
    return {name: MARKERS[n % len(MARKERS)] for n, name in enumerate(names)}


def value_colours(share: float) -> tuple[str, str]:
    """Background and readable text colour for a place ``share`` in [0, 1] on the map of explained variance."""
    red, green, blue, _ = rgba = mpl.colormaps[VALUES](0.05 + 0.85 * min(max(share, 0.0), 1.0))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Contrast with black exceeds contrast with white above this luminance (WCAG 2: (L + .05) / .05 = 1.05 / (L + .05)).
    return to_hex(rgba), "#111111" if luminance > 0.179 else "#ffffff"


def figure_png(fig: Figure) -> bytes:
    """The figure as PNG bytes, without date, version or host in its metadata: equal figures give equal bytes.

    A character that the font lacks, as in a name of a mix, is drawn as a box without a word of it on the terminal.
    """
    buffer = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()
