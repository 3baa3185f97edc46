"""This project's trainer on a cache of activations on disk, and what memory that takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from protocol import Actions, serve

from sae_pipeline.activations.shard_writing import ShardWriter
from sae_pipeline.activations.shards import SHARD, ActivationShards
from sae_pipeline.activations.stream import ActivationStream
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.trainer import train_arms

CONTEXT_LENGTH, CONTEXTS_PER_BLOCK, FEATURES = 128, 8, 512


def write_cache(folder: Path, tokens: int, d_model: int, shard_tokens: int) -> None:
    """Shards of bfloat16 activations, sparse sums of random directions, written block by block; BOS opens each context."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(FEATURES, d_model, generator=generator)
    for number, start in enumerate(range(0, tokens, shard_tokens)):
        rows = min(shard_tokens, tokens - start)
        writer = ShardWriter(folder / SHARD.format(number), rows, d_model, "bfloat16", CONTEXT_LENGTH)
        for first in range(0, rows, CONTEXT_LENGTH):
            count = min(CONTEXT_LENGTH, rows - first)
            chosen = torch.randint(0, FEATURES, (count, 16), generator=generator)
            writer.write((directions[chosen].sum(1) / 4).bfloat16())
        places = torch.arange(rows, dtype=torch.int32)
        writer.publish(torch.where(places % CONTEXT_LENGTH == 0, -1, places // CONTEXT_LENGTH).int())


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Nothing is warm: the peak of the whole training is measured."""
    torch.set_num_threads(setup["threads"])
    scratch = Path(setup["scratch"])

    def write(name: str, tokens: int) -> dict[str, Any]:
        write_cache(scratch / name, tokens, setup["d_in"], setup["shuffle_tokens"])
        return {"bytes": sum(path.stat().st_size for path in (scratch / name).iterdir())}

    def train(name: str, tokens: int) -> dict[str, Any]:
        """One arm over all tokens of the cache, from its stream, with its checkpoints, calibration and files."""
        stream = ActivationStream(ActivationShards(sorted((scratch / name).glob("shard-*")), CONTEXTS_PER_BLOCK), 0, setup["shuffle_tokens"])
        folder = scratch / f"{name}-arm"
        folder.mkdir()
        arm = Arm(
            architecture="topk", k=setup["sparsity"], target_l0=None, tokens=tokens, init_seed=0, data_seed=0, batch_size=setup["batch"],
            learning_rate=3e-4, warmup_share=0.05, decay_share=0.2, auxk_coefficient=1 / 32, dead_window_share=0.5, b_dec_init="mean", normalise=True,
        )  # fmt: skip
        with highest_anonymous() as peak:
            summaries = train_arms(
                {arm.label: folder}, {arm.label: arm}, stream=stream, d_model=setup["d_in"], d_sae=setup["d_sae"], checkpoint_every=1000,
                label="benchmark", metadata={"model_name": "none", "hook_name": "none"},
            )  # fmt: skip
        return {"anonymous_mib": peak[0], "steps": summaries[arm.label]["steps"]}

    return {"versions": {"torch": torch.__version__}}, {"write": write, "train": train}


@contextmanager
def highest_anonymous() -> Iterator[list[float]]:
    """Highest anonymous memory in MiB while the block runs, read every 5 ms: what the program itself holds, without files."""
    highest, done = [0.0], threading.Event()

    def watch() -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            highest[0] = max(highest[0], next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024)
            if done.wait(0.005):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    serve(load)
