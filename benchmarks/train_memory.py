"""Whether training takes more memory from a larger cache: the same arm, one epoch, from a cache and from one four times as large.

    python benchmarks/train_memory.py
    python benchmarks/train_memory.py --output benchmarks/results/train-memory.json

Each cache is written by the pipeline's own shard writer and trained from in a process of its own. Two figures per process:
the peak of its resident memory, pages of mapped files included, and the peak of its anonymous memory, which is what the
program itself asked for.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from datetime import UTC, datetime
from typing import Any

from program import options, run
from side_by_side import Worker, machine

TIMES = 4
"""How much larger the second cache is."""


def main() -> None:
    """Parse, measure, print."""
    arguments = parsed()
    run(arguments, lambda: measure(arguments), rendered)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both processes, one after the other."""
    folder = arguments.scratch / "train-memory"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    setup = {
        "d_in": arguments.d_in, "d_sae": arguments.d_sae, "batch": arguments.batch, "sparsity": arguments.k, "threads": arguments.threads,
        "shuffle_tokens": arguments.tokens // TIMES, "scratch": str(folder),
    }  # fmt: skip
    result: dict[str, Any] = {
        "benchmark": "train_memory",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "arm": setup | {"scratch": None},
        "caches": [],
    }
    try:
        for tokens in (arguments.tokens, TIMES * arguments.tokens):
            name = f"cache-{tokens}"
            with Worker("our_cache_training.py", sys.executable, setup, folder, f"write-{tokens}") as worker:
                worker.ready()
                size = worker.ask("write", name=name, tokens=tokens)["bytes"]
            with Worker("our_cache_training.py", sys.executable, setup, folder, f"train-{tokens}") as worker:
                worker.ready()
                trained = worker.ask("train", name=name, tokens=tokens)
            result["caches"].append({"tokens": tokens, "cache_mib": size / 2**20, **trained})
            shutil.rmtree(folder / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    small, large = result["caches"]
    return result | {"peak_ratio": large["peak_mib"] / small["peak_mib"], "anonymous_ratio": large["anonymous_mib"] / small["anonymous_mib"]}


def rendered(found: dict[str, Any]) -> str:
    """A table in Markdown."""
    arm = found["arm"]
    lines = [
        f"{found['date']}, {found['machine']['cpu']}: TopK {arm['d_in']}×{arm['d_sae']}, k = {arm['sparsity']}, batch {arm['batch']}, one epoch, shuffled over {arm['shuffle_tokens']:,} tokens.",
        "",
        "| cache | tokens | steps | peak resident MiB | peak anonymous MiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['cache_mib']:,.0f} MiB | {each['tokens']:,} | {each['steps']} | {each['peak_mib']:,.0f} | {each['anonymous_mib']:,.0f} |"
        for each in found["caches"]
    ]
    lines.append(f"| ratio | {TIMES} | | **{found['peak_ratio']:.3f}** | **{found['anonymous_ratio']:.3f}** |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__, "for the caches")
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=12288)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=131_072, help="of the smaller cache, which is four shuffling windows long")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
