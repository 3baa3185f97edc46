"""Trained SAEs open in SAELens as they lie on disk and compute the same latents and reconstructions there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.trainer import train_arms

pytestmark = pytest.mark.interchange

READ_WITH_SAELENS = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE

root = Path(sys.argv[1])
x = load_file(root / "inputs.safetensors")["x"]
found, about = {}, {}
for folder in sorted(p for p in root.iterdir() if p.is_dir()):
    sae = SAE.load_from_disk(folder, device="cpu")
    with torch.no_grad():
        latents = sae.encode(x)
        found[f"{folder.name}.latents"] = latents.contiguous()
        found[f"{folder.name}.reconstruction"] = sae.decode(latents).contiguous()
    about[folder.name] = {"class": type(sae).__name__, "metadata": sae.cfg.metadata.to_dict()}
save_file(found, root / "found.safetensors")
(root / "about.json").write_text(json.dumps(about))
"""

CLASSES = {"topk": "TopKSAE", "batchtopk": "JumpReLUSAE", "jumprelu": "JumpReLUSAE", "relu": "StandardSAE"}


class Activations:
    """2,000 correlated activations with a mean and a norm far from sqrt(d_model), in a fixed order."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = 20 * torch.randn(2_000, 24, generator=generator) @ torch.randn(24, 24, generator=generator) / 24**0.5 + 5

    def sample(self, size: int) -> torch.Tensor:
        return self.x[:size]

    def batches(self, start: int, size: int, count: int, device: str) -> Generator[torch.Tensor, None, None]:
        for first in range(start, start + size * count, size):
            yield self.x[torch.arange(first, first + size) % len(self.x)].to(device)


@pytest.fixture(scope="module")
def read_back(saelens_python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], dict]:
    """A folder with a trained SAE per architecture, and what SAELens makes of them."""
    root, stream = tmp_path_factory.mktemp("saes"), Activations()
    common = {
        "tokens": 64 * 40, "init_seed": 0, "data_seed": 0, "batch_size": 64, "learning_rate": 3e-3, "warmup_share": 0.05, "decay_share": 0.2,
        "auxk_coefficient": 1 / 32, "dead_window_share": 0.1, "b_dec_init": "mean", "normalise": True,
    }  # fmt: skip
    arms = {
        name: Arm(
            architecture=name, k=6 if name in ("topk", "batchtopk") else None, target_l0=6.0 if name in ("jumprelu", "relu") else None, **common
        )
        for name in ARCHITECTURES
    }
    folders = {name: root / name for name in arms}
    for folder in folders.values():
        folder.mkdir()
    metadata = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "corpus_content": "abc"}
    train_arms(folders, arms, stream=stream, d_model=24, d_sae=96, checkpoint_every=1_000, label="toy", metadata=metadata)
    save_file({"x": stream.x[:256].contiguous()}, root / "inputs.safetensors")
    subprocess.run([saelens_python, "-c", READ_WITH_SAELENS, str(root)], check=True)
    return root, load_file(root / "found.safetensors"), json.loads((root / "about.json").read_text())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saelens_computes_the_same_latents_and_reconstructions(name, read_back):
    root, found, about = read_back
    sae, x = InferenceSAE.load(root / name), load_file(root / "inputs.safetensors")["x"]
    f = sae.encode(x)
    x_hat = sae.decode(f)
    assert about[name]["class"] == CLASSES[name]
    assert (f > 0).any()
    # Relative to the size of what is compared: activations here have a norm near 100.
    assert (found[f"{name}.latents"] - f).abs().max() <= 1e-5 * f.abs().max()
    assert (found[f"{name}.reconstruction"] - x_hat).abs().max() <= 1e-5 * x_hat.abs().max()
    assert torch.equal(found[f"{name}.latents"] > 0, f > 0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_provenance_survives_in_saelens(name, read_back):
    metadata = read_back[2][name]["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["corpus_content"] == "abc"
    assert metadata["architecture"] == name
    assert metadata["init_seed"] == 0
