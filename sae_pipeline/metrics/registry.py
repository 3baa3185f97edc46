"""What every metric column means: one entry per id, in the order of the columns of ``sae_metrics``.

Without torch, so that reports, documentation and checks can read it at no cost; ``docs/metrics.md`` is written from it. A
new metric is one function (of document sums in ``ratios.py``, of firing counts in ``firing.py``, of the decoder in
``redundancy.py``; the others have files of their own) and its entry here; rival definitions are in ``rival_definitions.py``.
"""

from __future__ import annotations

from dataclasses import fields
from math import inf

import pandas as pd

from sae_pipeline.metrics.definition import NO_VARIANCE, Metric
from sae_pipeline.metrics.rival_definitions import RIVALS

DENSE_CUTS = (0.1, 0.5, 0.8, 0.95)
"""Shares of tokens above which a latent counts as dense: 0.1 is the high-frequency cut, 0.8 means "always on"."""

RARE_RATE = 5e-4
"""Firing rate below which a latent counts as dead for ``dead_share_5e4`` (0.05 % of tokens)."""

FEW_FIRINGS = 5
"""Number of firings below which a latent counts as dead for ``dead_share_lt5``."""

TOP_PAIRS = 100
"""Number of most similar decoder pairs averaged by ``decoder_top100_pair_cos``."""

_NO_TEXT = "no token of the set was scored by the language model"
_NO_EFFECT = "ablating the site changes the cross-entropy by less than 1e-6 nats, so nothing can be recovered"
_FEW_DECODERS = "fewer than two decoder rows differ from zero"
_SILENT = "no latent fired on the set"
_SPELLING = "the model cannot spell, or the layer does not hold first letters; the table `first_letters` says which"
_LOSSES = "Splicing replaces every position but the special ones, and special targets are not scored; tools that replace or score BOS and padding get other figures."

_RECONSTRUCTION = {
    "n_tokens": Metric("tokens the reconstruction and firing metrics are computed on", "count", "tokens", (0, inf), None),
    "n_documents": Metric("documents these tokens come from", "count", "documents", (0, inf), None),
    "explained_variance": Metric(
        "share of the activations' variance that reconstructions explain",
        "1 - sum |x - x_hat|^2 / sum |x - mu|^2, mu = mean over all tokens of the set",
        "1",
        (-inf, 1),
        "higher",
        NO_VARIANCE,
        "coefficient of determination over all coordinates together; S1 and S4 print it as loss recovered",
        "sae-lens 6.54 `explained_variance`; the S1 framework's Loss Recovered (there clamped at 0); often FVE or R^2",
        "A few massive tokens can carry most of the variance: read it with explained_variance_excl_outliers. Six other formulas share the name, see `legacy.`.",
    ),
    "explained_variance_excl_outliers": Metric(
        "explained variance without the tokens whose norm exceeds the outlier multiple of the median norm",
        "as explained_variance, over tokens with |x| <= evaluation.outlier_norm_ratio * median |x|, around their own mean",
        "1",
        (-inf, 1),
        "higher",
        NO_VARIANCE,
        "Sun et al. 2024 (massive activations)",
    ),
    "fvu": Metric(
        "fraction of variance unexplained",
        "1 - explained_variance",
        "1",
        (0, inf),
        "lower",
        NO_VARIANCE,
        "Gao et al. 2024 (normalised error)",
        "sparsify `fvu` is formed per batch, see legacy.sparsify.fvu",
        "S1 and S4 use this name for its opposite, the explained variance.",
    ),
    "mse": Metric(
        "mean squared error of a token, summed over coordinates",
        "sum |x - x_hat|^2 / n",
        "squared activation units",
        (0, inf),
        "lower",
        elsewhere="sae-lens `mse`; elsewhere often divided by d_model as well",
        pitfalls="Grows with the norm of the activations, so it compares SAEs of one layer and one set only.",
    ),
    "nmse": Metric(
        "squared error relative to the squared norm",
        "sum |x - x_hat|^2 / sum |x|^2",
        "1",
        (0, inf),
        "lower",
        "all activations of the set are zero",
        pitfalls="A large mean activation makes it small for an SAE that explains nothing but that mean.",
    ),
    "cosine_similarity": Metric(
        "mean cosine between a token's activation and its reconstruction",
        "sum <x, x_hat> / (|x| |x_hat|) / n, 0 where either is zero",
        "1",
        (-1, 1),
        "higher",
        elsewhere="sae-lens and dictionary_learning `cossim`",
        pitfalls="Not centred: near 1 wherever activations share a large mean.",
    ),
    "l2_ratio": Metric(
        "norm of the reconstructions relative to that of the activations; below 1 they shrink",
        "sqrt(sum |x_hat|^2 / sum |x|^2)",
        "1",
        (0, inf),
        None,
        "all activations of the set are zero",
        elsewhere="sae-lens and dictionary_learning `l2_ratio` average the ratio |x_hat| / |x| of single tokens instead",
    ),
    "relative_reconstruction_bias": Metric(
        "how much too long the reconstructions are; 1 is unbiased, below 1 they shrink",
        "sum |x_hat|^2 / sum <x, x_hat>",
        "1",
        (-inf, inf),
        None,
        "reconstructions are orthogonal to the activations",
        "Rajamanoharan et al. 2024 (gated SAEs), equation 10",
        "sae-lens and dictionary_learning `relative_reconstruction_bias`, averaged over batches",
    ),
    "l0": Metric(
        "mean number of active latents per token",
        "sum #{i: f_i > 0} / n",
        "latents",
        (0, inf),
        "lower",
        elsewhere="sae-lens and dictionary_learning `l0`",
        pitfalls="Of a TopK SAE at most k; more means that counting was done before the selection.",
    ),
    "l0_fraction": Metric(
        "share of latents that are active on a token",
        "l0 / d_sae",
        "1",
        (0, 1),
        "lower",
        elsewhere="`activation_sparsity_l0` in some reports is this fraction",
    ),
    "l1": Metric(
        "mean sum of activations, each times the norm of its decoder row",
        "sum sum_i f_i |W_dec_i| / n",
        "activation units",
        (0, inf),
        "lower",
        elsewhere="sae-lens and dictionary_learning `l1`/`l1_loss` leave the decoder norms out, which is the same when these are 1",
    ),
}

_FIDELITY = {
    "ce_clean": Metric(
        "cross-entropy of the untouched model", "mean over scored targets of -log p(target)", "nats per token", (0, inf), None, _NO_TEXT,
        elsewhere="sae-lens `ce_loss_without_sae`, dictionary_learning `loss_original`", pitfalls=_LOSSES,
    ),
    "ce_sae": Metric(
        "cross-entropy with the site replaced by its reconstructions", "as ce_clean, with x_hat at every non-special position", "nats per token", (0, inf), "lower", _NO_TEXT,
        elsewhere="sae-lens `ce_loss_with_sae`, dictionary_learning `loss_reconstructed`", pitfalls=_LOSSES,
    ),
    "ce_zero": Metric(
        "cross-entropy with the same positions set to zero", "as ce_clean, with 0 at every non-special position", "nats per token", (0, inf), None, _NO_TEXT,
        elsewhere="sae-lens `ce_loss_with_ablation`, dictionary_learning `loss_zero`", pitfalls=_LOSSES,
    ),
    "ce_mean": Metric(
        "cross-entropy with the same positions set to the set's mean activation", "as ce_clean, with mu at every non-special position", "nats per token", (0, inf), None, _NO_TEXT,
    ),
    "ce_loss_recovered_zero": Metric(
        "share of the loss that zeroing the site adds and the SAE saves", "(ce_zero - ce_sae) / (ce_zero - ce_clean)", "1", (-inf, inf), "higher", _NO_EFFECT,
        "Bricken et al. 2023 (towards monosemanticity)", "sae-lens `ce_loss_score`, dictionary_learning `frac_recovered`",
        "Zeroing destroys so much that every fair SAE is near 1: compare ce_delta, or the mean-ablated share.",
    ),
    "ce_loss_recovered_mean": Metric(
        "the same against mean ablation", "(ce_mean - ce_sae) / (ce_mean - ce_clean)", "1", (-inf, inf), "higher", _NO_EFFECT,
    ),
    "ce_delta": Metric("loss that the SAE adds to the model", "ce_sae - ce_clean", "nats per token", (-inf, inf), "lower", _NO_TEXT),
    "kl_divergence": Metric(
        "how far the spliced model's next-token distribution q is from the clean one's, p", "mean over scored targets of sum_v p(v) (log p(v) - log q(v))",
        "nats per token", (0, inf), "lower", _NO_TEXT, elsewhere="sae-lens `kl_div_with_sae`",
    ),
}  # fmt: skip

_FIRING = {
    "dead_share": Metric(
        "share of latents that never fired on the set's n_tokens",
        "#{i: firings of i = 0} / d_sae",
        "1",
        (0, 1),
        "lower",
        elsewhere="1 - dictionary_learning `frac_alive`",
        pitfalls="Falls with n_tokens: silence on n tokens excludes rates above 3 / n only. The share that was silent for the arm's window of training is `dead_share` of the table `training`.",
    ),
    "dead_share_lt5": Metric(
        "share of latents that fired on fewer than 5 of the set's n_tokens",
        "#{i: firings of i < 5} / d_sae",
        "1",
        (0, 1),
        "lower",
        pitfalls="A count, not a rate: compare it between sets of equal n_tokens only.",
    ),
    "dead_share_5e4": Metric(
        "share of latents that fired on fewer than 0.05 % of tokens",
        "#{i: firings of i / n < 0.0005} / d_sae",
        "1",
        (0, 1),
        "lower",
        "the set has fewer than 6000 tokens, too few to tell a rate of 0.05 % from a silent latent (rule of three)",
        "S4 guide: dead features",
    ),
    **{
        f"dense_share@{cut:g}": Metric(
            f"share of latents that fired on more than {cut:.0%} of tokens",
            f"#{{i: firings of i / n > {cut:g}}} / d_sae",
            "1",
            (0, 1),
            "lower",
            source={0.1: "Cho et al. 2025 (high-frequency latents)", 0.8: "S4 guide: always-on features"}.get(cut, ""),
            pitfalls="The ids are in dense_latents.json." if cut == DENSE_CUTS[0] else "",
        )
        for cut in DENSE_CUTS
    },
    "fake_feature_ratio": Metric(
        "share of latents that fire on more than a tenth of the positions of uniformly random token ids",
        "#{i: random positions with f_i > 0 / all random positions > 0.1} / d_sae",
        "1",
        (0, 1),
        "lower",
        "evaluation.random_tokens is 0",
        "Cho et al. 2025 (FaithfulSAE), there in percent of d_sae",
        pitfalls="The paper's code counts activations above 1.0 in raw units, which depends on the scale of the latents; the cut here, zero, does not. The random ids are the same for every set of a layer.",
    ),
    "feature_diversity_10": Metric(
        "how many different latents are the strongest on ten tokens of ten different documents",
        "expected number of distinct argmax_i f_i over ten random documents and one random token of each, exactly; a token without firing adds none",
        "latents",
        (0, 10),
        "higher",
        "the set has fewer than ten documents",
        "S4 guide: feature diversity score",
        pitfalls="The guide counts the distinct ones among one token's ten strongest latents, which is always 10.",
    ),
    "effective_latents": Metric(
        "number of latents that would share all firings equally with the same entropy",
        "exp(-sum_i s_i log s_i), s_i = firings of i / all firings",
        "latents",
        (1, inf),
        "higher",
        _SILENT,
        "perplexity of the distribution of firings",
    ),
    "firing_gini": Metric(
        "how unequally firings are spread over latents, 0 equally, near 1 on few",
        "sum_ij |a_i - a_j| / (2 d_sae sum_i a_i), a_i = firings of i",
        "1",
        (0, 1),
        "lower",
        _SILENT,
        "Gini coefficient",
    ),
}

_REDUNDANCY = {
    "decoder_mean_cos": Metric("mean cosine over pairs of decoder rows", "mean over i < j of cos(W_dec_i, W_dec_j)", "1", (-1, 1), None, _FEW_DECODERS),
    "decoder_mean_abs_cos": Metric(
        "mean absolute cosine over pairs of decoder rows", "mean over i < j of |cos(W_dec_i, W_dec_j)|", "1", (0, 1), "lower", _FEW_DECODERS,
        pitfalls="About sqrt(2 / (pi d_model)) for random directions, whatever the dictionary.",
    ),
    "decoder_mean_max_cos": Metric(
        "mean over latents of the largest cosine with another decoder row", "mean over i of max over j != i of cos(W_dec_i, W_dec_j)", "1", (-1, 1), "lower", _FEW_DECODERS,
        elsewhere="maximum cosine similarity between features, MMCS of a dictionary with itself",
    ),
    "decoder_top100_pair_cos": Metric(
        "mean cosine of the 100 most similar pairs of decoder rows", "mean of the 100 largest cos(W_dec_i, W_dec_j), i < j", "1", (-1, 1), "lower", _FEW_DECODERS,
        "S1 framework and S4 guide: feature absorption, whose bands apply to it",
        "called feature absorption in S1 and S4, which has nothing to do with first-letter absorption",
        "Rises with the width of the dictionary, because more pairs compete for the top 100.",
    ),
    "antipodal_pairs": Metric(
        "pairs of decoder rows that point in opposite directions", "#{i < j: cos(W_dec_i, W_dec_j) < -0.9}", "pairs", (0, inf), None, _FEW_DECODERS,
    ),
}  # fmt: skip

_ABSORPTION = {
    "first_letter_absorption": Metric(
        "share of a word's first letter that latents for the word carry in place of the letter's own latents",
        "mean over letters of the mean over words of the share of the projection on the letter's direction that other latents write",
        "1",
        (0, 1),
        "lower",
        _SPELLING,
        "Chanin et al. 2024 (A is for Absorption), as SAEBench measures it",
        "SAEBench `mean_absorption_fraction_score`",
        "Of the SAE and not of an evaluation set: the same in all rows of an SAE. An SAE without latents for words scores low as well: see main_f1 of the table first_letters. Not the feature absorption of S1 and S4, which is decoder_top100_pair_cos.",
    ),
    "first_letter_absorption_full": Metric(
        "share of words on which the letter's own latents are silent and one other latent carries the letter",
        "mean over letters of #{words absorbed by one latent} / #{words}",
        "1",
        (0, 1),
        "lower",
        _SPELLING,
        "Chanin et al. 2024 (A is for Absorption), as SAEBench measures it",
        "SAEBench `mean_full_absorption_score`",
    ),
}

METRICS: dict[str, Metric] = _RECONSTRUCTION | _FIDELITY | _FIRING | _REDUNDANCY | _ABSORPTION | RIVALS
"""Metric id (the column name of the table ``sae_metrics``) to its meaning."""


def registry_frame() -> pd.DataFrame:
    """The registry as a table for whoever reads the numbers elsewhere, one row per metric in order.

    Columns: ``id`` and the fields of :class:`Metric`, with its range as ``minimum`` and ``maximum`` (infinite where there is
    no bound) and ``better`` missing where neither end is better in itself.
    """
    names = [field.name for field in fields(Metric) if field.name != "range"]
    columns = [*names[:3], "minimum", "maximum", *names[3:]]
    rows = [{"id": name, **vars(metric), "minimum": metric.range[0], "maximum": metric.range[1]} for name, metric in METRICS.items()]
    return pd.DataFrame(rows, columns=["id", *columns])
