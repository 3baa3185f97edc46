"""A made-up study for the report's tests: frames of the shapes the analysis hands over, drawn from a fixed generator."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import synthetic_advice
import synthetic_matching
import synthetic_text

from sae_pipeline.analysis.health.marks import judge
from sae_pipeline.analysis.health.rubrics import load_rubrics
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.study import Study

MIXES = {"PRE": {"prose": 0.7, "chat": 0.3}, "EQ": {"prose": 0.5, "chat": 0.5}, "INS": {"prose": 0.3, "chat": 0.7}}
SETS = {"prose": "in_sample", "chat": "task_shift", "code": "domain_shift"}


def study(**changes: Any) -> Study:
    """The study file behind the frames, with top-level sections replaced."""
    sources = {name: {"kind": "installed_docs"} for name in SETS}
    data: dict[str, Any] = {
        "name": "synthetic",
        "description": "Three mixes of prose and chat.",
        "subject": {"model": "bundled"},
        "sources": sources,
        "mixes": MIXES,
        "held_out": {name: {"shares": {name: 1.0}, "kind": kind} for name, kind in SETS.items()},
        "activations": {"layers": [1, 3], "tokens": 200_000},
        "saes": {"expansions": [4, 8], "arms": [{"architecture": "topk", "k": 16, "seeds": [0, 1]}]},
    }
    return Study.model_validate(data | changes)


def frames(copies: int = 1, **changes: Any) -> StudyFrames:
    """Everything that a study measures, with frames replaced; ``copies`` multiplies the SAEs by extra seeds."""
    return replace(_made(copies), **changes)


@cache
def _made(copies: int) -> StudyFrames:
    generator = np.random.default_rng(0)
    saes = pd.DataFrame(
        [
            {
                "sae_id": f"{mix}.L{layer:02d}.x{expansion:02d}.{architecture}-k{k}-t{tokens // 1000}k-s{seed}", "mix": mix, "layer": layer, "site": "resid_post",
                "expansion": float(expansion), "d_model": 128, "d_sae": 128 * expansion, "architecture": architecture, "sparsity": float(k),
                "tokens": tokens, "init_seed": seed, "data_seed": 0, "batch_size": 1024, "learning_rate": 1e-3, "final_l0": float(k), "final_loss": 0.25,
                "arm": f"{architecture}-k{k}-t{tokens // 1000}k-s{seed}", "trunk_tokens": None, "trunk_steps": 0,
            }
            for mix in MIXES for layer in (1, 3) for expansion in (4, 8) for architecture, k, tokens in
            (("topk", 16, 50_000), ("topk", 16, 200_000), ("topk", 32, 200_000), ("batchtopk", 16, 200_000)) for seed in range(2 * copies)
        ]
    )  # fmt: skip
    quality = 0.6 + 0.02 * np.log2(saes["expansion"]) + 0.03 * np.log2(saes["tokens"] / 50_000) + 0.004 * saes["sparsity"] - 0.02 * saes["layer"]
    metrics = pd.concat(
        [
            pd.DataFrame(
                {
                    "sae_id": saes["sae_id"], "evaluation_set": name, "kind": kind, "l0": saes["sparsity"] + generator.normal(0, 0.3, len(saes)),
                    "explained_variance": quality - 0.1 * n + generator.normal(0, 0.004, len(saes)) + 0.05 * saes["mix"].map(lambda m, s=name: MIXES[m].get(s, 0.0)),
                    "dead_share": generator.uniform(0, 0.4, len(saes)), "ce_loss_recovered_zero": generator.uniform(0.6, 1, len(saes)),
                    "decoder_top100_pair_cos": generator.uniform(0.1, 0.6, len(saes)),
                }
            ) for n, (name, kind) in enumerate(SETS.items())
        ], ignore_index=True,
    )  # fmt: skip
    documents = pd.DataFrame(
        [
            {"evaluation_set": name, "layer": layer, "site": "resid_post", "document": d, "document_hash": f"{name}{d}", "n": 10, "sum_sq": 5.0, "sum_x": np.zeros(2)}
            for name in SETS for layer in (1, 3) for d in range(40)
        ]
    )  # fmt: skip
    sums = pd.DataFrame(
        [{"sae_id": i, "evaluation_set": n, "document": 0, "document_hash": f"{n}0", "n": 10, "sse": 1.0} for i in saes["sae_id"] for n in SETS]
    )
    measured = metrics.merge(saes, on="sae_id")
    made: dict[str, Any] = {
        "tables": StudyTables(saes, metrics, sums, documents, synthetic_matching.features(saes)),
        "subject": {"model": "bundled", "d_model": 128, "n_layers": 4},
        "findings": findings(),
        "matrix": _summary(measured, ["layer", "mix", "evaluation_set"]),
        "expansion_curve": _curve(measured, "expansion").assign(regime="overcomplete"),
        "budget_curve": _curve(measured, "tokens"),
        "tradeoff": _tradeoff(measured),
        "health": judge(load_rubrics(study().analysis.rubrics), metrics, saes),
        "generalisation": synthetic_advice.generalisation(),
        "root_causes": synthetic_advice.root_causes(),
        "proposals": synthetic_advice.proposals(),
        "lineage": lineage(saes["sae_id"]),
        "text": synthetic_text.text(),
        "activation_statistics": synthetic_text.activation_statistics(),
        "massive_tokens": synthetic_text.massive_tokens(),
        "training": training(saes),
        "diverged": diverged(),
        "variance_shares": variance_shares(),
        "recommendations": recommendations(),
        "matching": synthetic_matching.matching(saes),
        "traces": synthetic_matching.traces(saes),
    }
    return StudyFrames(**made)


def variance_shares() -> pd.DataFrame:
    """The mix accounts for half of the variance, the layer for a quarter."""
    parts = {"mix": 0.5, "layer": 0.25, "expansion": 0.15, "seed": 0.1}
    rows = [("explained_variance", layer, factor, share, share - 0.02, share + 0.02) for layer in (None, 1, 3) for factor, share in parts.items()]
    return pd.DataFrame(rows, columns=["metric", "layer", "factor", "share", "low", "high"]).astype({"layer": "Int64"}).assign(site="resid_post")


def recommendations() -> pd.DataFrame:
    """One that rests on a claim."""
    row = ("S0-24", "Train SAEs on the kind of text they are meant for.", "S0-13", "in-domain advantage +0.0213 [0.0153, 0.0277]")
    return pd.DataFrame([row], columns=["id", "text", "rests_on", "evidence"])


def diverged(*arms: tuple[str, int]) -> pd.DataFrame:
    """Arms that were stopped, from (name, step)."""
    columns = ["sae_id", "layer", "step", "steps", "loss", "learning_rate"]
    return pd.DataFrame([(name, 1, step, 60, float("nan"), 0.003) for name, step in arms], columns=columns)


def training(saes: pd.DataFrame) -> pd.DataFrame:
    """Three monitored steps of every SAE: explained variance rises by a quarter, dead latents by a tenth."""
    machine = {"seconds": 1.0, "tokens_per_second": 5_000.0, "resident_bytes": 2**30, "device_bytes": 0}
    return pd.DataFrame(
        [
            {"sae_id": sae.sae_id, "step": 10 * n, "tokens": 5_120 * n, "loss": 1 - n / 4, "mse": 1 - n / 4, "l0": sae.sparsity + 1 / n,
             "sparsity": 0.3, "explained_variance": n / 4, "dead_share": n / 10, "learning_rate": 1e-3} | machine
            for sae in saes.itertuples() for n in (1, 2, 3)
        ]
    )  # fmt: skip


def _summary(table: pd.DataFrame, keys: list[str], value: str = "explained_variance") -> pd.DataFrame:
    grouped = table.groupby(keys)[value].agg(estimate="mean", n="size").reset_index()
    return grouped.assign(metric=value, low=grouped["estimate"] - 0.012, high=grouped["estimate"] + 0.013, documents=40, seeds=2)


def _curve(table: pd.DataFrame, factor: str) -> pd.DataFrame:
    mixes = _summary(table, ["layer", "mix", "evaluation_set", factor])
    return pd.concat([_summary(table.assign(mix="all mixes"), ["layer", "mix", "evaluation_set", factor]), mixes], ignore_index=True)


def _tradeoff(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["mix", "layer", "expansion", "architecture", "sparsity", "tokens", "evaluation_set"]
    l0 = _summary(table, keys, "l0").rename(columns={"estimate": "l0", "low": "l0_low", "high": "l0_high"})
    return _summary(table, keys).drop(columns="metric").merge(l0[[*keys, "l0", "l0_low", "l0_high"]], on=keys)


def findings() -> pd.DataFrame:
    """Claims with every verdict, the in-domain advantage by layer and mix pair."""
    nan = float("nan")
    rows: list[tuple[Any, ...]] = []
    helps = "An SAE explains more variance on the kind of text it was trained on."
    for scope, value in (("all layers", 0.0213), ("L01", 0.018), ("L03", 0.0246), ("all layers, PRE against EQ on prose and chat", 0.009),
                         ("L01, PRE against EQ on prose and chat", 0.008), ("L03, PRE against EQ on prose and chat", 0.002)):  # fmt: skip
        low = value - 0.006
        rows.append(
            (
                "S0-13",
                helps,
                scope,
                value,
                low,
                value + 0.0064,
                "supported" if low > 0 else "inconclusive",
                24,
                80,
                2,
                "(prose − chat) of PRE minus INS",
            )
        )
    rows += [
        ("S0-14", "A larger expansion factor raises explained variance.", "all layers", 0.02, 0.015, 0.025, "supported", 24, 40, 2, "at 8 minus at 4"),
        ("S0-15", "More training tokens raise explained variance.", "all layers", -0.02, -0.03, -0.01, "contradicted", 24, 40, 1, "one seed"),
        ("S0-16", "The gain from doubling the training tokens shrinks as the budget grows.", "all layers", nan, nan, nan, "not_testable", 0, 0, 0,
         "needs SAEs at three or more token budgets, found 50000, 200000"),
        ("S0-17", "Explained variance is higher at a deeper layer.", "all layers", 0.001, -0.004, 0.006, "inconclusive", 24, 40, 2, ""),
        ("S3-39", "Another training mix leaves fewer latents in common than another seed.", "all layers", 0.3, 0.2, 0.4, "supported", 24, 0, 2, ""),
        ("SEED", "Another seed changes explained variance less than another training mix does.", "all layers", 0.004, 0.003, 0.005, "supported", 24, 40, 2,
         "standard deviation between seeds on prose, pooled over 24 settings; the difference between PRE and INS is 0.0200 [0.0150, 0.0250] there"),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["id", "claim", "scope", "estimate", "low", "high", "verdict", "cells", "documents", "seeds", "note"])
    p_value = found["verdict"].map({"supported": 0.001, "contradicted": 0.002, "inconclusive": 0.5})
    return found.assign(p_value=p_value, p_adjusted=(5 * p_value).clip(upper=1))


def lineage(sae_ids: Any) -> pd.DataFrame:
    """Artifacts in a chain: subject, corpora, activations, SAEs."""
    links = [("subject", "subject_model", "f-subject", {}), ("corpus", "PRE/corpus", "f-corpus", {"tokenizer": "t"})]
    links += [("activations", "PRE/activations L01", "f-activations", {"corpus": "c-f-corpus", "subject": "c-f-subject"})]
    links += [("saes", str(sae_id), f"f-{sae_id}", {"activations": "f-activations"}) for sae_id in sae_ids]
    return pd.DataFrame(
        [
            {
                "artifact_stage": stage, "what": what, "fingerprint": fingerprint, "content": f"c-{fingerprint}", "inputs": json.dumps(inputs),
                "created": "2026-01-02T03:04:05Z", "seconds": 1.5, "libraries": json.dumps({"torch": "2.13.0", "numpy": "2.4.6"}),
            } for stage, what, fingerprint, inputs in links
        ]
    )  # fmt: skip
