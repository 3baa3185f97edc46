"""What training finds, beside the tools it replaces: planted sparse features, equal tokens, matched sparsity, several seeds.

    python benchmarks/recovery.py --build-peers
    python benchmarks/recovery.py --output benchmarks/results/recovery.json
    python benchmarks/recovery.py --render benchmarks/results/recovery.json

Every tool begins with the same parameters, sees the same activations in the same order and takes the same number of steps
with Adam at the same rate. Two figures per tool: explained variance of held-out activations, and the mean over planted
features of the largest cosine with a decoder row. Where L0 is set by a coefficient, a peer's coefficient is searched until
its L0 is that of ours. Intervals are those of the paired difference over seeds (Student's t, 95 %).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from peers import DICTIONARY_LEARNING, SAELENS, SPARSIFY
from side_by_side import REPOSITORY, Worker, machine
from train import BANDWIDTH, PEER_TOOLS
from training_rows import LIKE_PEERS, Row, write_activations

PROBLEM = {"d_in": 64, "d_sae": 256, "batch": 512, "sparsity": 8}
"""Width, latents, activations per step and k or target L0; a quarter as many features are planted as there are values in
a batch of directions of this width that are told apart easily."""
FEATURES = 192
"""Planted features: fewer than latents, so that a full recovery is possible."""
STEPS = {"topk": 3_000, "batchtopk": 3_000, "matryoshka": 3_000, "relu": 3_000, "jumprelu": 3_000, "gated": 3_000}
LEARNING_RATE = 1e-3
WARMUP_SHARE, DECAY_SHARE, DEAD_SHARE = 0.05, 0.2, 0.1
"""Schedule and dead window, as shares of the budget, in every tool that has them."""
L0_TOLERANCE, MOST_TRIALS = 0.05, 6
"""How near a peer's L0 must come to ours, and how many trainings may be spent on it."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % point of Student's t for so many seeds."""

TOOLS = {name: tool for name, tool in PEER_TOOLS.items() if name in ("sae-lens", "dictionary_learning", "sparsify")}
"""One way of training per peer: the others differ in speed."""

CONDITIONS = {
    "all": f"Adam at {LEARNING_RATE:g}, warm-up over {WARMUP_SHARE:.0%} and linear decay over the last {DECAY_SHARE:.0%} of the steps; latents are dead after "
    f"{DEAD_SHARE:.0%} of the tokens, with AuxK where a tool has it; latents chosen as in training",
    "sparsify": "its own schedule decays from the end of the warm-up; auxk_alpha = 1/32",
    "dictionary_learning": "Gated and JumpReLU with Adam's first moment off, as it trains them",
}


def main() -> None:
    """Parse, build, measure, print."""
    arguments = parsed()
    if arguments.render:
        print(rendered(json.loads(arguments.render.read_text())))
        return
    if arguments.build_peers:
        for peer in (SAELENS, DICTIONARY_LEARNING, SPARSIFY):
            peer.build()
    found = measure(arguments)
    print(rendered(found))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(found))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every architecture, seed and tool."""
    folder = arguments.scratch / "recovery"
    shutil.rmtree(folder, ignore_errors=True)
    tools = {name: tool for name, tool in TOOLS.items() if tool.peer is not None and tool.peer.name in arguments.peers and tool.python is not None}
    architectures: dict[str, Any] = {}
    try:
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for architecture in arguments.architectures:
                runs: dict[str, list[dict[str, float]]] = {}
                for seed in range(arguments.seeds):
                    setup, directions = problem(folder / f"{architecture}-{seed}", architecture, seed, arguments)
                    print(f"{architecture}, seed {seed}", file=sys.stderr, flush=True)
                    ours = trained(stack, workers, "ours", "our_training.py", sys.executable, setup | {"writes_initial": True}, directions)
                    runs.setdefault("ours", []).append(ours)
                    for name, tool in tools.items():
                        if not tool.architectures or architecture in tool.architectures:
                            assert tool.python is not None
                            own = setup | {"options": {"auxk": 1 / 32}}
                            matched = at_l0(ours["l0"], stack, workers, name, tool.script, tool.python, own, directions)
                            runs.setdefault(name, []).append(matched)
                architectures[architecture] = compared(runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "benchmark": "recovery", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine(), "problem": PROBLEM | {"features": FEATURES},
        "steps": arguments.steps or STEPS, "seeds": arguments.seeds, "architectures": architectures, "conditions": CONDITIONS,
    }  # fmt: skip


def problem(folder: Path, architecture: str, seed: int, arguments: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """Activations of a seed on disk, and what every worker is told."""
    row = Row(architecture, **PROBLEM)
    steps = arguments.steps or STEPS[architecture]
    written = write_activations(folder, row.d_in, min(steps, 512) * row.batch, 16 * row.batch, FEATURES, row.sparsity, seed)
    return asdict(row) | {
        "widths": row.widths, "lr": arguments.rate, "warmup_steps": round(WARMUP_SHARE * steps), "decay_steps": round(DECAY_SHARE * steps),
        "total_steps": steps, "dead_tokens": round(DEAD_SHARE * steps * row.batch), "bandwidth": BANDWIDTH, "threads": 1, "device": "cpu", "seed": seed,
        "scratch": str(folder), "activations": str(written.activations), "held_out": str(written.held_out), "variance": written.variance,
        "initial": str(folder / "initial.npz"), "name": "arm", "options": {}, "strength": 1.0, "writes_initial": False, "arms": False,
    }, written.directions  # fmt: skip


def trained(
    stack: ExitStack, workers: dict[str, Worker], name: str, script: str, python: str, setup: dict[str, Any], directions: np.ndarray
) -> dict[str, float]:
    """One training in a tool's process, which is started when it is first needed."""
    folder = Path(setup["scratch"])
    if name in workers:
        workers[name].ask("restart", **setup)
    else:
        workers[name] = stack.enter_context(Worker(script, python, setup, folder.parent, name))
        workers[name].ready()
    worker = workers[name]
    # The schedule of a tool may end a step before the budget does.
    worker.ask("train", steps=setup["total_steps"] - 1)
    found = worker.ask("evaluate")
    worker.ask("decoder", path=str(folder / f"{name}.npy"))
    return {
        "explained_variance": 1 - found["nmse"], "l0": found["l0"], "strength": setup["strength"],
        "mean_max_cosine": mean_max_cosine(np.load(folder / f"{name}.npy"), directions),
    }  # fmt: skip


def at_l0(
    target: float, stack: ExitStack, workers: dict[str, Worker], name: str, script: str, python: str, setup: dict[str, Any], directions: np.ndarray
) -> dict[str, float]:
    """A peer's training with the strength of its sparsity term at which its L0 is nearest to the target."""
    tried: list[dict[str, float]] = []
    strength = 1.0
    while len(tried) < MOST_TRIALS:
        tried.append(trained(stack, workers, name, script, python, setup | {"strength": strength}, directions))
        if setup["architecture"] in LIKE_PEERS or abs(tried[-1]["l0"] / target - 1) <= L0_TOLERANCE:
            break
        strength = next_strength(tried, target)
    return min(tried, key=lambda run: abs(math.log(max(run["l0"], 1e-3) / target)))


def next_strength(tried: list[dict[str, float]], target: float) -> float:
    """The next strength to try: between the nearest ones with too high and too low an L0, else further out.

    L0 falls with the strength; both are taken in logarithms, in which the relation is nearly straight.
    """
    above = [run for run in tried if run["l0"] > target]
    below = [run for run in tried if run["l0"] <= target]
    if not below:
        return 2.5 * max(run["strength"] for run in above)
    if not above:
        return min(run["strength"] for run in below) / 2.5
    weak, strong = max(above, key=lambda run: run["strength"]), min(below, key=lambda run: run["strength"])
    ends = [math.log(max(run["l0"], 1e-3) / target) for run in (weak, strong)]
    share = min(max(ends[0] / (ends[0] - ends[1]), 0.1), 0.9)
    return weak["strength"] * (strong["strength"] / weak["strength"]) ** share


def mean_max_cosine(decoder: np.ndarray, directions: np.ndarray) -> float:
    """Mean over planted directions (n, d_in) of the largest cosine with a row of the decoder (d_sae, d_in)."""
    rows = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return float((unit @ rows.T).max(1).mean())


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Means per tool, and ours minus each peer with the interval over seeds."""
    result: dict[str, Any] = {"runs": runs, "tools": {}}
    for name, found in runs.items():
        tool: dict[str, Any] = {field: statistics.mean(run[field] for run in found) for field in ("explained_variance", "mean_max_cosine", "l0")}
        if name != "ours":
            tool["l0_matched"] = all(abs(a["l0"] / b["l0"] - 1) <= 2 * L0_TOLERANCE for a, b in zip(found, runs["ours"], strict=True))
            for field in ("explained_variance", "mean_max_cosine"):
                tool[f"ours_minus_{field}"] = interval([b[field] - a[field] for a, b in zip(found, runs["ours"], strict=True)])
        result["tools"][name] = tool
    return result


def interval(differences: list[float]) -> dict[str, float | None]:
    """Mean and 95 % interval of paired differences; without an interval for a single seed."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = STUDENT[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def rendered(found: dict[str, Any]) -> str:
    """A table in Markdown."""
    size, steps = found["problem"], found["steps"]
    longest = max(steps.values()) if isinstance(steps, dict) else steps
    lines = [
        f"{found['date']}: {size['features']} planted features in {size['d_in']} dimensions, d_sae {size['d_sae']}, {size['sparsity']} active, "
        f"{longest * size['batch']:,} tokens at most, {found['seeds']} seeds. Differences are ours minus the peer's, with 95 % intervals over seeds.",
        "",
        "| architecture | tool | L0 | explained variance | difference | mean max cosine | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for architecture, result in found["architectures"].items():
        for name, tool in result["tools"].items():
            mark = "" if tool.get("l0_matched", True) else " (not matched)"
            lines.append(
                f"| {architecture} | {name} | {tool['l0']:.2f}{mark} | {tool['explained_variance']:.4f} | {_words(tool.get('ours_minus_explained_variance'))} "
                f"| {tool['mean_max_cosine']:.4f} | {_words(tool.get('ours_minus_mean_max_cosine'))} |"
            )
    return "\n".join([*lines, "", *(f"- {name}: {condition}." for name, condition in found["conditions"].items())])


def _words(difference: dict[str, float] | None) -> str:
    if difference is None:
        return ""
    span = f" [{difference['low']:+.4f}, {difference['high']:+.4f}]" if difference["low"] is not None else ""
    return f"{difference['mean']:+.4f}{span}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--architectures", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--seeds", type=int, choices=(1, *STUDENT), default=3)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--steps", type=int, help="of every training, instead of the architecture's")
    parser.add_argument("--peers", nargs="*", choices=(peers := [peer.name for peer in (SAELENS, DICTIONARY_LEARNING, SPARSIFY)]), default=peers)
    parser.add_argument("--build-peers", action="store_true", help="build the peers' environments where they are missing")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--output", type=Path, help="write the same object to a file")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the table of such a file and measure nothing")
    parser.add_argument("--scratch", type=Path, default=REPOSITORY / "build" / "benchmarks", help="for activations")
    return parser.parse_args()


if __name__ == "__main__":
    main()
