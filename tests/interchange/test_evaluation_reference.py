"""On the same SAE and the same tokens, metrics here are those of SAELens's evaluation, as far as the definitions agree.

Where they do not, SAELens's definition is computed here from our model, our SAE and the activations, and gives SAELens's
number: then the definition is the whole of the difference. ``docs/evaluation.md`` lists them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from libraries import PEERS  # puts the benchmarks' folder on the path
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "metrics"))

from gpt2_subject import FOLDER, SHAPES, make_checkpoint
from metrics_toys import Evaluated, MemoryShards, corpus_of, evaluated

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.saes.inference import InferenceSAE

pytestmark = pytest.mark.interchange

SHAPE = SHAPES["tiny"]
HOOK = "blocks.2.hook_resid_post"
CONTEXTS, LENGTH, BATCH_SIZE, D_SAE = 24, 32, 8, 96
TEXTS = {"plain": False, "marked": True}
"""Texts, and whether special tokens are left out: ``plain`` has none, ``marked`` has BOS and separators."""
WEIGHTS_TIMES = 6.0
"""Makes the random model's predictions depend on its activations, so that losses differ by more than rounding."""
SPECIAL = 0
REL = 2e-5


@dataclass(frozen=True)
class Text:
    """Token ids, where they are special, and the activations at the hook."""

    tokens: Tensor
    special: Tensor
    x: Tensor


@dataclass(frozen=True)
class Reference:
    """What both sides say, by (SAE, text), and what it takes to compute more."""

    model: SubjectModel
    texts: dict[str, Text]
    saes: dict[str, InferenceSAE]
    ours: dict[tuple[str, str], Evaluated]
    theirs: dict[tuple[str, str], dict[str, Any]]


def make_tokens(text: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, SHAPE.vocab_size, (CONTEXTS, LENGTH), generator=generator)
    if text == "marked":
        tokens[:, 0] = SPECIAL
        tokens[torch.arange(CONTEXTS), torch.randint(2, LENGTH, (CONTEXTS,), generator=generator)] = SPECIAL
    return tokens


def make_sae(activation: str, x: Tensor) -> InferenceSAE:
    """Tied random directions around the mean activation; decoder norms differ, so that L1 shows whether they count."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, x.shape[1], generator=generator), dim=1)
    norms = 0.5 + torch.rand(D_SAE, 1, generator=generator)
    pre = (x - x.mean(0)) @ rows.t()
    threshold = pre.quantile(0.9, dim=0) if activation == "jumprelu" else None
    metadata = {"model_name": FOLDER, "hook_name": HOOK, "context_size": LENGTH, "prepend_bos": False}
    return InferenceSAE(
        rows.t().contiguous(), torch.zeros(D_SAE), 0.4 * rows * norms, x.mean(0), activation, k=8 if activation == "topk" else None, threshold=threshold, metadata=metadata
    )  # fmt: skip


@pytest.fixture(scope="module")
def reference(library: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    root = tmp_path_factory.mktemp("reference")
    make_checkpoint(root / FOLDER, SHAPE)
    sharpen(root / FOLDER)
    model = SubjectModel.load(str(root / FOLDER))
    texts, ours = {}, {}
    for name in TEXTS:
        tokens = make_tokens(name)
        np.save(root / f"{name}.npy", tokens.numpy())
        texts[name] = Text(tokens, tokens == SPECIAL, model.capture(tokens, [HOOK])[HOOK])
    saes = {activation: make_sae(activation, texts["plain"].x.flatten(0, 1)) for activation in ("topk", "jumprelu")}
    for name, sae in saes.items():
        (root / name).mkdir()
        sae.save(root / name)
    (root / "asked.json").write_text(json.dumps({"texts": TEXTS, "saes": list(saes), "batch_size": BATCH_SIZE}))
    for name, text in texts.items():
        document = torch.where(text.special, -1, torch.arange(CONTEXTS)[:, None])
        shards, corpus = MemoryShards(text.x.flatten(0, 1), document.flatten()), corpus_of(text.tokens, document)
        for label, result in evaluated(saes, shards, corpus, model, hook=HOOK).items():
            ours[label, name] = result
    library("saelens", "evaluate_with_saelens.py", str(root))
    found = json.loads((root / "found.json").read_text())
    return Reference(model, texts, saes, ours, {tuple(key.split(" on ")): value for key, value in found.items()})


def sharpen(folder: Path) -> None:
    """Scale the matrices of a checkpoint."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(WEIGHTS_TIMES)
    model.save_pretrained(folder)


def test_it_is_the_version_that_the_page_speaks_of() -> None:
    requirements = Path(__file__).parents[2] / "benchmarks" / PEERS["saelens"].requirements
    assert "sae-lens==6.54" in requirements.read_text()


CASES = pytest.mark.parametrize("case", [(activation, text) for activation in ("topk", "jumprelu") for text in TEXTS], ids=" on ".join)


@CASES
@pytest.mark.parametrize(
    ("ours", "theirs"), [("explained_variance", "explained_variance"), ("mse", "mse"), ("cosine_similarity", "cossim"), ("l0", "l0")]
)
def test_reconstruction_metrics_are_equal(reference: Reference, case: tuple[str, str], ours: str, theirs: str) -> None:
    assert reference.ours[case].metrics[ours] == pytest.approx(reference.theirs[case][theirs], rel=REL)


@CASES
def test_firing_rates_are_equal_latent_by_latent(reference: Reference, case: tuple[str, str]) -> None:
    assert reference.ours[case].latents["density"].to_numpy() == pytest.approx(reference.theirs[case]["feature_density"], abs=1e-6)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ce_clean", "ce_loss_without_sae"),
        ("ce_sae", "ce_loss_with_sae"),
        ("ce_zero", "ce_loss_with_ablation"),
        ("ce_loss_recovered_zero", "ce_loss_score"),
    ],
)
def test_cross_entropies_are_equal_on_text_without_special_tokens(reference: Reference, activation: str, ours: str, theirs: str) -> None:
    case = (activation, "plain")
    assert reference.ours[case].metrics[ours] == pytest.approx(reference.theirs[case][theirs], rel=REL)


# ------------------------------------------------------------------------------------------------ where definitions differ


def by_position(reference: Reference, case: tuple[str, str], *, zero_everywhere: bool) -> dict[str, np.ndarray]:
    """Losses and divergences of every position (contexts, length), float64 from our model's logits."""
    text, sae = reference.texts[case[1]], reference.saes[case[0]]
    kept = text.special[..., None]

    def reconstruction(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        return torch.where(kept, x, sae.decode(sae.encode(flat)).view_as(x))

    def zero(x: Tensor) -> Tensor:
        return torch.zeros_like(x) if zero_everywhere else torch.where(kept, x, 0.0)

    replacements = {"clean": None, "sae": (HOOK, reconstruction), "zero": (HOOK, zero)}
    log = {name: reference.model.logits(text.tokens, replace).double().log_softmax(-1) for name, replace in replacements.items()}
    targets = text.tokens[:, 1:, None]
    found = {f"ce_{name}": -values[:, :-1].gather(-1, targets)[..., 0] for name, values in log.items()}
    found |= {f"kl_{name}": (log["clean"].exp() * (log["clean"] - log[name])).sum(-1) for name in ("sae", "zero")}
    return {name: values.numpy() for name, values in found.items()}


@CASES
def test_their_cross_entropies_are_those_of_sources_that_are_not_special_with_zeros_everywhere(reference: Reference, case: tuple[str, str]) -> None:
    """Ours are those of targets that are not special, and no branch touches a special position."""
    theirs, special = reference.theirs[case], reference.texts[case[1]].special.numpy()
    sources = by_position(reference, case, zero_everywhere=True)
    for name, key in (("ce_clean", "ce_loss_without_sae"), ("ce_sae", "ce_loss_with_sae"), ("ce_zero", "ce_loss_with_ablation")):
        assert theirs[key] == pytest.approx(sources[name][~special[:, :-1]].mean(), rel=REL), key
    targets = by_position(reference, case, zero_everywhere=False)
    for name in ("ce_clean", "ce_sae", "ce_zero"):
        assert reference.ours[case].metrics[name] == pytest.approx(targets[name][~special[:, 1:]].mean(), rel=REL), name


@CASES
def test_their_divergence_counts_the_last_position_which_has_no_target(reference: Reference, case: tuple[str, str]) -> None:
    theirs, special = reference.theirs[case], reference.texts[case[1]].special.numpy()
    sources = by_position(reference, case, zero_everywhere=True)
    assert theirs["kl_div_with_sae"] == pytest.approx(sources["kl_sae"][~special].mean(), rel=REL)
    assert theirs["kl_div_with_ablation"] == pytest.approx(sources["kl_zero"][~special].mean(), rel=REL)
    assert reference.ours[case].metrics["kl_divergence"] == pytest.approx(sources["kl_sae"][:, :-1][~special[:, 1:]].mean(), rel=REL)


def test_special_tokens_do_make_a_difference(reference: Reference) -> None:
    """Otherwise the two tests above would show nothing."""
    case = ("topk", "marked")
    ours, theirs = reference.ours[case].metrics, reference.theirs[case]
    for name, key in (("ce_clean", "ce_loss_without_sae"), ("ce_zero", "ce_loss_with_ablation"), ("kl_divergence", "kl_div_with_sae")):
        assert ours[name] != pytest.approx(theirs[key], rel=1e-3)


@CASES
def test_their_l1_leaves_out_decoder_norms_and_their_ratios_are_means_of_ratios(reference: Reference, case: tuple[str, str]) -> None:
    """Ours weigh latents by their decoder norms, and divide sums by sums."""
    sae, text, theirs = reference.saes[case[0]], reference.texts[case[1]], reference.theirs[case]
    x = text.x[~text.special]
    f = sae.encode(x)
    x, x_hat, f = x.double().numpy(), sae.decode(f).double().numpy(), f.double().numpy()
    assert theirs["l1"] == pytest.approx(f.sum(1).mean(), rel=REL)
    assert reference.ours[case].metrics["l1"] == pytest.approx((f @ sae.W_dec.double().norm(dim=1).numpy()).mean(), rel=REL)
    norms, norms_hat = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    assert theirs["l2_ratio"] == pytest.approx((norms_hat / norms).mean(), rel=REL)
    assert reference.ours[case].metrics["l2_ratio"] == pytest.approx(np.sqrt((norms_hat**2).sum() / (norms**2).sum()), rel=REL)
    rows = (~text.special).view(-1, BATCH_SIZE * LENGTH).sum(1).cumsum(0)[:-1].numpy()
    batches = list(zip(np.split(x, rows), np.split(x_hat, rows), strict=True))
    assert theirs["relative_reconstruction_bias"] == pytest.approx(np.mean([(b**2).sum() / (a * b).sum() for a, b in batches]), rel=REL)
    assert reference.ours[case].metrics["relative_reconstruction_bias"] == pytest.approx((x_hat**2).sum() / (x * x_hat).sum(), rel=REL)
    per_token = [1 - ((a - b) ** 2).sum(1) / ((a - a.mean(0)) ** 2).sum(1) for a, b in batches]
    assert theirs["explained_variance_legacy"] == pytest.approx(np.concatenate(per_token).mean(), rel=REL)
