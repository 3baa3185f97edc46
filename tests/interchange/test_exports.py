"""SAEs trained here open in the other libraries and compute the same latents and reconstructions there."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
import torch
from libraries import PEERS, Opened, agree

from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.arm import WITH_K, Arm
from sae_pipeline.saes.formats import FORMATS
from sae_pipeline.saes.formats.golden import check, golden_inputs, margins
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.trainer import train_arms

pytestmark = pytest.mark.interchange

WIDTHS = {"x4": 96, "odd": 57, "under": 10}
CLASSES = {
    "saelens": {
        "topk": "TopKSAE", "batchtopk": "JumpReLUSAE", "matryoshka": "JumpReLUSAE", "jumprelu": "JumpReLUSAE", "gated": "GatedSAE", "relu": "StandardSAE",
    },
    "dictionary_learning": {
        "topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE", "matryoshka": "MatryoshkaBatchTopKSAE", "jumprelu": "JumpReluAutoEncoder",
        "gated": "GatedAutoEncoder", "relu": "AutoEncoder",
    },
    "sparsify": {"topk": "SparseCoder"},
}  # fmt: skip
CASES = [(form, architecture) for form in PEERS for architecture in CLASSES[form]]


class Activations:
    """2,000 correlated activations with a mean and a norm far from sqrt(d_model), in a fixed order."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = 20 * torch.randn(3_000, 24, generator=generator) @ torch.randn(24, 24, generator=generator) / 24**0.5 + 5

    def sample(self, size: int) -> torch.Tensor:
        return self.x[:2_000][:size]

    def held_out(self, half: int) -> torch.Tensor:
        return self.x[2_000 + 500 * half :][:500]

    def batches(self, start: int, size: int, count: int, device: str) -> Generator[torch.Tensor, None, None]:
        for first in range(start, start + size * count, size):
            yield self.x[torch.arange(first, first + size) % 2_000].to(device)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InferenceSAE]:
    """A trained SAE per architecture and width, as ``architecture-width``."""
    common = {
        "tokens": 64 * 40, "init_seed": 0, "data_seed": 0, "batch_size": 64, "learning_rate": 3e-3, "warmup_share": 0.05, "decay_share": 0.2,
        "auxk_coefficient": 1 / 32, "dead_window_share": 0.1, "b_dec_init": "mean", "normalise": True,
    }  # fmt: skip
    arms = {
        name: Arm(architecture=name, k=6 if name in WITH_K else None, target_l0=None if name in WITH_K else 6.0, **common) for name in ARCHITECTURES
    }
    saes = {}
    for width, d_sae in WIDTHS.items():
        root = tmp_path_factory.mktemp(width)
        folders = {name: root / name for name in arms}
        for folder in folders.values():
            folder.mkdir()
        metadata = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "corpus_content": "abc – π"}
        train_arms(folders, arms, stream=Activations(), d_model=24, d_sae=d_sae, checkpoint_every=1_000, label="toy", metadata=metadata)
        saes |= {f"{name}-{width}": InferenceSAE.load(folder) for name, folder in folders.items()}
    return saes


@pytest.fixture(scope="module")
def inputs(trained: dict[str, InferenceSAE]) -> dict[str, torch.Tensor]:
    """Per SAE: activations that it was trained on, those on which no float32 rounding turns a latent on or off, and golden inputs."""
    x = Activations().x[:1_024]
    return {
        name: torch.cat([x[margins(sae, x).argsort(descending=True)[:256]], golden_inputs(sae.to(torch.float64)).float()])
        for name, sae in trained.items()
    }


@pytest.fixture(scope="module")
def found(
    trained: dict[str, InferenceSAE], inputs: dict[str, torch.Tensor], opened: Callable[..., Opened], tmp_path_factory
) -> Callable[[str], Opened]:
    """What a library makes of the exports that it can express; asked once."""
    answers: dict[str, Opened] = {}

    def ask(form: str) -> Opened:
        if form not in answers:
            root, expressed = tmp_path_factory.mktemp(form), {name: sae for name, sae in trained.items() if FORMATS[form].expresses(sae)}
            for name, sae in expressed.items():
                (root / name).mkdir()
                FORMATS[form].write(sae, root / name)
                check(sae, FORMATS[form], root / name)
            answers[form] = opened(form, root, {name: inputs[name] for name in expressed})
        return answers[form]

    return ask


def test_every_architecture_has_a_class_in_the_libraries_that_can_express_it(trained: dict[str, InferenceSAE]) -> None:
    for form, classes in CLASSES.items():
        assert set(classes) == {name for name in ARCHITECTURES if FORMATS[form].expresses(trained[f"{name}-x4"])}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("form", "architecture"), CASES)
def test_the_library_computes_the_same_latents_and_reconstructions(form: str, architecture: str, width: str, found, trained, inputs) -> None:
    name = f"{architecture}-{width}"
    sae, theirs = trained[name], found(form)[name]
    f = sae.encode(inputs[name])
    assert theirs["about"]["class"] == CLASSES[form][architecture]
    assert (f > 0).any()
    assert agree(theirs["latents"], f)
    assert agree(theirs["reconstruction"], sae.decode(f))
    assert torch.equal(theirs["latents"] > 0, f > 0)


@pytest.mark.parametrize(("form", "architecture"), CASES)
def test_provenance_travels_along(form: str, architecture: str, found) -> None:
    metadata = found(form)[f"{architecture}-x4"]["about"]["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["corpus_content"] == "abc – π"
    assert metadata["architecture"] == architecture
    assert metadata["init_seed"] == 0
