"""Which columns of a table are understood, under which names, and in which units: the one list that reading and documentation share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sae_pipeline.errors import BadInput
from sae_pipeline.metrics.registry import METRICS


@dataclass(frozen=True)
class Column:
    """A column that an analysis reads."""

    kind: Literal["text", "integer", "number"]
    meaning: str
    long_names: tuple[tuple[str, float], ...] = ()
    """Other names that stand for it, each with the factor that turns its values into ours."""


@dataclass(frozen=True)
class Taken:
    """A column of the file and what it was taken for."""

    id: str
    name: str
    """As the file spells it."""
    factor: float


def _called(*names: str, factor: float = 1.0) -> tuple[tuple[str, float], ...]:
    return tuple((name, factor) for name in names)


SETTINGS: dict[str, Column] = {
    "mix": Column("text", "text that the SAE was trained on", _called("sae_train_dataset", "train_dataset", "training_mix", "train_mix")),
    "layer": Column("integer", "block of the subject model", _called("hook_layer", "sae_layer")),
    "site": Column("text", "activation of that block, for example resid_post", _called("hook_site")),
    "expansion": Column("number", "d_sae / d_model", _called("sae_expansion_factor", "expansion_factor")),
    "d_sae": Column("integer", "latents of the dictionary", _called("dict_size", "dictionary_size", "n_latents")),
    "d_model": Column("integer", "width of the activations", _called("activation_dim", "d_in")),
    "architecture": Column("text", "architecture of the SAE", _called("sae_architecture")),
    "sparsity": Column("number", "k, or the L0 aimed at", _called("k", "target_l0")),
    "tokens": Column(
        "integer",
        "training tokens",
        _called("training_tokens", "train_tokens") + _called("sae_token_size_mil", "train_tokens_M", "training_tokens_M", factor=1e6),
    ),
    "init_seed": Column("integer", "seed of the initial weights", _called("seed", "sae_seed")),
    "data_seed": Column("integer", "seed of the order of the data"),
    "batch_size": Column("integer", "activations per step"),
    "learning_rate": Column("number", "peak learning rate", _called("lr")),
    "variant": Column("text", "any other setting in which SAEs differ, in words"),
}
"""What distinguishes SAEs. Two are compared only where all of these are equal but one."""

NAMES: dict[str, Column] = {
    "sae_id": Column("text", "name of the SAE", _called("sae_name")),
    "evaluation_set": Column("text", "held-out text that it was measured on", _called("eval_dataset", "evaluation_dataset", "eval_set")),
    "kind": Column("text", "in_sample, domain_shift, task_shift or distribution_shift"),
}

MEASURED: dict[str, Column] = {
    name: Column(
        "number",
        metric.description,
        {
            "l0_fraction": _called("activation_sparsity_l0"),
            "dead_share": _called("dead_features_pct", "dead_pct", factor=0.01) + _called("dead_features_share", "dead_fraction"),
            "cosine_similarity": _called("cossim"),
            "kl_divergence": _called("kl_div"),
        }.get(name, ()),
    )
    for name, metric in METRICS.items()
}
"""The metrics of a study, under the same ids and definitions."""

COLUMNS: dict[str, Column] = SETTINGS | NAMES | MEASURED

_SCALED = re.compile(r"^(?P<name>.+?)(?P<sign>[*/])(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)$")


def resolve(found: Sequence[str], asked: Sequence[str], where: str) -> tuple[list[Taken], list[str]]:
    """Which column of a file stands for what.

    Args:
        found: the file's columns.
        asked: ``id=column``, ``id=column*number`` or ``id=column/number`` each; ``id=`` leaves a column that would be known unused.
        where: the file, for messages.

    Returns:
        What was taken, in the order of :data:`COLUMNS`, and the columns that nobody knows or wants, in the file's order.

    Raises:
        BadInput: a wrong ``asked``, or two columns that stand for the same.
    """
    taken = _asked_for(found, asked, where)
    wanted = set(taken) | {column.name for column in taken.values() if column is not None}
    for column_id, column in COLUMNS.items():
        if column_id in taken:
            continue
        names = {_plain(column_id): 1.0} | {_plain(name): factor for name, factor in column.long_names}
        fits = [(name, names[_plain(name)]) for name in found if _plain(name) in names and name not in wanted]
        # A table may hold the id itself beside columns it was made from, as k and target_l0 beside sparsity.
        fits = [fit for fit in fits if _plain(fit[0]) == _plain(column_id)] or fits
        if len(fits) > 1:
            listed = " and ".join(name for name, _ in fits)
            raise BadInput(f"{where}: expected one column for {column_id}, found {listed}; choose with --map {column_id}=COLUMN")
        if fits:
            taken[column_id] = Taken(column_id, *fits[0])
    used = [taken[column_id] for column_id in COLUMNS if taken.get(column_id) is not None]
    resolved = [column for column in used if column is not None]
    return resolved, [name for name in found if name not in {column.name for column in resolved}]


def _asked_for(found: Sequence[str], asked: Sequence[str], where: str) -> dict[str, Taken | None]:
    """What the user named, by id; None where a column is to be left unused."""
    taken: dict[str, Taken | None] = {}
    for text in asked:
        column_id, sign, name = (part.strip() for part in text.partition("="))
        if not sign:
            raise BadInput(f"--map {text}: expected OUR_ID=THEIR_COLUMN, found no '='; for example --map mix=train_set")
        if column_id not in COLUMNS:
            raise BadInput(f"--map {text}: expected an id on the left, found '{column_id}'; {_near(column_id, list(COLUMNS))}")
        if column_id in taken:
            raise BadInput(f"--map {text}: expected each id once, found {column_id} again; keep one of them")
        factor = 1.0
        if name not in found and (scaled := _SCALED.match(name)) and scaled["name"] in found:
            number = float(scaled["number"])
            if number == 0:
                raise BadInput(f"--map {text}: expected a factor other than 0, found {scaled['number']}; correct it")
            name, factor = scaled["name"], number if scaled["sign"] == "*" else 1 / number
        if name and name not in found:
            raise BadInput(f"--map {text}: expected a column of {where}, found none named '{name}'; {_near(name, list(found))}")
        taken[column_id] = Taken(column_id, name, factor) if name else None
    return taken


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    few = [other for other in known if other not in MEASURED]
    return (
        f"did you mean '{close[0]}'?"
        if close
        else f"known are {', '.join(few[:20])}{' and the metrics of docs/metrics.md' if len(few) < len(known) else ''}"
    )


def _plain(name: str) -> str:
    """A name without regard to case, blanks and hyphens."""
    return re.sub(r"[\s\-]+", "_", name.strip()).casefold()
