"""Toy activations: sparse sums of known directions, and streams over them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_choices import INSTALLED, use
from torch import Tensor

from sae_pipeline.saes.arm import WITH_K, Arm
from sae_pipeline.saes.kernels import choice
from sae_pipeline.saes.trainer import train_arms


@pytest.fixture(autouse=True)
def _one_thread():
    """Bits depend on the number of threads, and the machine is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=INSTALLED)
def implementation(request, monkeypatch):
    """Every implementation of the primitives in turn, with preselection."""
    use(request.param, monkeypatch)
    yield request.param
    choice.compiled_rows.cache_clear()


def sparse_sums(n: int, directions: Tensor, l0: float, seed: int, noise: float = 0.02) -> Tensor:
    """(n, d_model) sums of on average ``l0`` directions with coefficients in [0.5, 1.5], shifted by a constant."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, len(directions), generator=generator) < l0 / len(directions)
    coefficients = chosen * (torch.rand(n, len(directions), generator=generator) + 0.5)
    return coefficients @ directions + noise * torch.randn(n, directions.shape[1], generator=generator) + 0.3


def random_directions(count: int, d_model: int, seed: int = 7) -> Tensor:
    """(count, d_model) random unit rows."""
    rows = torch.randn(count, d_model, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


class TensorStream:
    """An endless shuffled stream over the first quarter of a tensor's rows; the others are held out.

    Counts its reads, and reuses the memory of a batch as the real one does.
    """

    def __init__(self, x: Tensor, seed: int = 0) -> None:
        self.x, self.seed, self.reads = x, seed, []
        self.rows = len(x) // 4

    def sample(self, size: int) -> Tensor:
        return self.batch(2**32, size)

    def held_out(self, half: int) -> Tensor:
        return self.x[self.rows :][half::2][:12_000]

    def batches(self, start: int, size: int, count: int, device: str) -> Generator[Tensor, None, None]:
        memory = torch.empty(size, self.x.shape[1], device=device)
        for n in range(count):
            self.reads.append((start + n * size, size))
            yield memory.copy_(self.batch(start + n * size, size))
            memory.fill_(torch.nan)

    def batch(self, start: int, size: int) -> Tensor:
        places = torch.arange(start, start + size)
        epochs, offsets = places // self.rows, places % self.rows
        rows = torch.empty(size, dtype=torch.long)
        for epoch in epochs.unique().tolist():
            order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed * 10**6 + epoch))
            rows[epochs == epoch] = order[offsets[epochs == epoch]]
        return self.x[rows]


@pytest.fixture(scope="session")
def toy() -> Callable[..., tuple[TensorStream, Tensor]]:
    """Makes a stream over ``n`` toy activations, with more held out, and the directions they are sums of."""

    def make(n: int, d_model: int, directions: int, l0: float, seed: int = 1) -> tuple[TensorStream, Tensor]:
        truth = random_directions(directions, d_model)
        return TensorStream(sparse_sums(4 * n, truth, l0, seed)), truth

    return make


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, dict], dict[str, Path]]]:
    """Trains arms (by label) at width 24, or as stated, and returns the summaries and the folders."""

    def run(arms: dict[str, Arm], stream: TensorStream, d_sae: int = 24, folders: dict[str, Path] | None = None, **changes: Any):
        if folders is None:
            root = tmp_path_factory.mktemp("saes")
            folders = {name: root / name for name in arms}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        settings = {
            "d_model": stream.x.shape[1],
            "d_sae": d_sae,
            "checkpoint_every": 10,
            "monitor_every": 1,
            "label": "toy",
            "metadata": {"hook_name": "h"},
        }
        return train_arms(folders, arms, stream=stream, **{**settings, **changes}), folders

    return run


@pytest.fixture(scope="session")
def stream() -> TensorStream:
    """8,000 activations of width 16 made of 32 directions, 3 at a time, and 24,000 held out."""
    return TensorStream(sparse_sums(32_000, random_directions(32, 16), l0=3, seed=1))


@pytest.fixture(scope="session")
def make_arm() -> Callable[..., Arm]:
    """Arms with small defaults; ``sparsity`` is k or the target L0, whichever the architecture takes."""

    def make(architecture: str, sparsity: float = 4, **changes: object) -> Arm:
        selects = architecture in WITH_K
        values = {
            "architecture": architecture,
            "k": int(sparsity) if selects else None,
            "target_l0": None if selects else float(sparsity),
            "tokens": 64 * 60,
            "init_seed": 0,
            "data_seed": 0,
            "batch_size": 64,
            "learning_rate": 3e-3,
            "warmup_share": 0.05,
            "decay_share": 0.2,
            "auxk_coefficient": 1 / 32,
            "dead_window_share": 0.1,
            "b_dec_init": "mean",
            "normalise": True,
        }
        return Arm(**{**values, **changes})

    return make
