"""What the rival definitions of explained variance mean, each under the name of the tool that computes it so."""

from __future__ import annotations

from math import inf

from sae_pipeline.metrics.definition import NO_VARIANCE, Metric

RIVAL_BATCH = 2048
"""Tokens per batch of the rival metrics that are formed batch by batch: a usual batch of activations in the tools they come from."""

_PER_BATCH = f"Depends on which tokens share a batch: here {RIVAL_BATCH} consecutive ones; the tool shuffles or takes whole prompts."

RIVALS = {
    "legacy.sae_lens.explained_variance": Metric(
        "sae-lens 6.54's explained variance",
        "explained_variance; where the variance per token is below 1e-10, 1 if the error is too and else 0",
        "1",
        (-inf, 1),
        "higher",
        source="sae-lens 6.54, evals.py",
        elsewhere="sae-lens `explained_variance`",
        pitfalls="Earlier versions printed the formula of legacy.sae_bench.explained_variance under the same name.",
    ),
    "legacy.sae_lens.explained_variance_legacy": Metric(
        "mean over tokens of the variance explained of each token",
        f"mean over tokens of 1 - |x - x_hat|^2 / |x - m|^2, m = mean of the token's batch of {RIVAL_BATCH}",
        "1",
        (-inf, 1),
        "higher",
        NO_VARIANCE,
        "sae-lens 6.54, evals.py",
        "sae-lens `explained_variance_legacy`, `explained_variance` of its first versions",
        "A token close to the mean outweighs all others. " + _PER_BATCH,
    ),
    "legacy.sae_bench.explained_variance": Metric(
        "explained variance that is hardly centred",
        "1 - e / (s - (s / d_model)^2), e = mean |x - x_hat|^2, s = mean |x|^2",
        "1",
        (-inf, inf),
        "higher",
        "what is taken for the variance is zero",
        "SAEBench 0.6.0, core evaluation",
        "SAEBench `explained_variance`",
        "Near 1 - nmse, so a large mean activation counts as explained; subtracts a square of squares, so it changes with the units.",
    ),
    "legacy.dictionary_learning.frac_variance_explained": Metric(
        "variance of the residual relative to that of the activations, batch by batch",
        f"mean over batches of {RIVAL_BATCH} tokens of 1 - sum_d Var(x_d - x_hat_d) / sum_d Var(x_d)",
        "1",
        (-inf, 1),
        "higher",
        NO_VARIANCE,
        "dictionary_learning, evaluation.py",
        "dictionary_learning `frac_variance_explained`",
        "A constant error costs nothing: 1 where the reconstruction is off by any fixed vector. " + _PER_BATCH,
    ),
    "legacy.sparsify.fvu": Metric(
        "fraction of variance unexplained, batch by batch",
        f"mean over batches of {RIVAL_BATCH} tokens of sum |x - x_hat|^2 / sum |x - m|^2, m = mean of the batch",
        "1",
        (0, inf),
        "lower",
        NO_VARIANCE,
        "sparsify, sparse_coder.py",
        "sparsify `fvu`",
        "Biased upwards for small batches, whose own mean takes part of the variance. " + _PER_BATCH,
    ),
    "legacy.scikit_learn.explained_variance_score": Metric(
        "explained variance by the variance of the residual",
        "1 - sum_d Var(x_d - x_hat_d) / sum_d Var(x_d) over all tokens of the set",
        "1",
        (-inf, 1),
        "higher",
        NO_VARIANCE,
        "scikit-learn, explained_variance_score with multioutput='variance_weighted'",
        "scikit-learn `explained_variance_score`",
        "A constant error costs nothing: 1 where the reconstruction is off by any fixed vector.",
    ),
    "legacy.s1.loss_recovered": Metric(
        "explained variance with what is below zero shown as zero",
        "max(0, explained_variance)",
        "1",
        (0, 1),
        "higher",
        NO_VARIANCE,
        "S1 framework: Loss Recovered",
        "Loss Recovered, in percent",
        "0 stands for predicting the mean and for every reconstruction worse than that.",
    ),
}
"""Metric id to its meaning, in the order of the columns."""
