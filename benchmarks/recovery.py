"""What training finds, beside the tools it replaces: planted sparse features, equal tokens, matched sparsity, several seeds.

    python benchmarks/recovery.py --build-peers
    python benchmarks/recovery.py --output benchmarks/results/recovery.json
    python benchmarks/recovery.py --render benchmarks/results/recovery.json

Every tool begins with the same parameters, sees the same activations in the same order and takes the same number of steps
of Adam, at the rate that was best for it among the same few (and further ones, where the best is the first or the last) on
seeds of their own. Two figures per tool: explained variance of held-out activations, and the mean over planted features of the
largest cosine with a decoder row. Where L0 is set by a coefficient, a peer's coefficient is searched until its L0 is on
either side of ours and near it, and its figures are interpolated at ours. Intervals are those of the paired difference over seeds (Student's t, 95 %).
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fair_terms import FIGURES, L0_TOLERANCE, at_target, bracketed, chosen_rate, deviation, near, next_strength
from numpy.typing import NDArray
from peers import TRAINERS
from program import options, run, say
from side_by_side import Worker, machine
from training_rows import LIKE_PEERS, Row, write_activations
from training_setup import BANDWIDTH
from training_tools import PEER_TOOLS, Tool

PROBLEM = {"d_in": 64, "d_sae": 256, "batch": 512, "sparsity": 8}
"""Width, latents, activations per step and k or target L0."""
FEATURES = 192
"""Planted features: fewer than latents, so that a full recovery is possible."""
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated")
STEPS = 3_000
RATES = (1e-3, 2e-3, 4e-3)
"""Learning rates that every tool may choose from: tools that clip their gradients take longer steps at the same rate."""
TUNING_SEEDS = 2
"""On how many seeds, none of them compared, rates are chosen; a single one prefers one of two good rates by chance."""
FIRST_TUNING_SEED = 1_000
WARMUP_SHARE, DECAY_SHARE, DEAD_SHARE = 0.05, 0.2, 0.1
"""Schedule and dead window, as shares of the budget, in every tool that has them."""
MOST_TRIALS, TUNING_TRIALS = 6, 4
"""Trainings that may be spent on a peer's L0, and while its rate is chosen."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % point of Student's t for so many seeds."""

TOOLS = {name: tool for name, tool in PEER_TOOLS.items() if name in ("sae-lens", "dictionary_learning", "sparsify")}
"""One way of training per peer: the others differ in speed."""

CONDITIONS = {
    "all": f"Adam at the best of {RATES} for each tool and architecture, or beyond, found on other seeds at matched L0 (how many is in the table); figures of a tool whose L0 a "
    f"coefficient sets are interpolated at the L0 of ours, the nearest training being within {L0_TOLERANCE:.0%} of it or marked; warm-up over {WARMUP_SHARE:.0%} and linear decay "
    f"over the last {DECAY_SHARE:.0%} of the steps; latents are dead after {DEAD_SHARE:.0%} of the tokens, with AuxK where a tool has it; latents chosen as in training",
    "sparsify": "its own schedule decays from the end of the warm-up; auxk_alpha = 1/32",
    "dictionary_learning": "Gated and JumpReLU with Adam's first moment off, as it trains them",
}


def main() -> None:
    """Parse, build, measure, print."""
    arguments = parsed()
    run(arguments, lambda: measure(arguments), rendered, TRAINERS)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every architecture, seed and tool."""
    folder = arguments.scratch / "recovery"
    shutil.rmtree(folder, ignore_errors=True)
    tools = {"ours": Tool("our_training.py")}
    wanted = {name: tool for name, tool in TOOLS.items() if tool.peer is not None and tool.peer.name in arguments.peers}
    missing = {name: tool.absence for name, tool in wanted.items() if tool.absence is not None}
    tools |= {name: tool for name, tool in wanted.items() if name not in missing}
    try:
        with Bench(folder, arguments.steps) as bench:
            architectures = {
                architecture: bench.compare(
                    architecture,
                    {name: tool for name, tool in tools.items() if not tool.architectures or architecture in tool.architectures},
                    arguments,
                )
                for architecture in arguments.architectures
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "benchmark": "recovery", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine(), "problem": PROBLEM | {"features": FEATURES},
        "steps": arguments.steps, "seeds": arguments.seeds, "architectures": architectures, "missing": missing, "conditions": CONDITIONS,
    }  # fmt: skip


class Bench(ExitStack):
    """Every tool's process, started when it is first needed."""

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__()
        self.folder, self.steps = folder, steps
        self.workers: dict[str, Worker] = {}

    def compare(self, architecture: str, tools: dict[str, Tool], arguments: argparse.Namespace) -> dict[str, Any]:
        """One architecture: rates are chosen on one seed, then every other seed is trained by all."""
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in tools}
        rates: dict[str, float] = {}
        edges: dict[str, bool] = {}
        strengths = dict.fromkeys(tools, 1.0)
        say(f"{architecture}: choosing rates")
        tuning_seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + arguments.tuning_seeds)
        tuning = [problem(self.folder / f"{architecture}-rates-{seed}", architecture, seed, self.steps) for seed in tuning_seeds]
        for name, tool in tools.items():

            def run_at(rate: float, name: str = name, tool: Tool = tool) -> dict[str, float]:
                found = []
                for given in tuning:
                    found.append(self.at_l0(name, tool, given, rate, PROBLEM["sparsity"], strengths[name], TUNING_TRIALS))
                    strengths[name] = found[-1]["strength"]
                return {field: statistics.mean(run[field] for run in found) for field in ("explained_variance", "l0_deviation")}

            rates[name], edges[name] = chosen_rate(arguments.rates, run_at)
        for seed in range(arguments.seeds):
            say(f"{architecture}: seed {seed}")
            given = problem(self.folder / f"{architecture}-{seed}", architecture, seed, self.steps)
            for name, tool in tools.items():
                target = runs["ours"][seed]["l0"] if name != "ours" else PROBLEM["sparsity"]
                runs[name].append(self.at_l0(name, tool, given, rates[name], target, strengths[name]))
        return compared(runs) | {"rates": rates, "rate_at_edge": edges, "tuning_seeds": arguments.tuning_seeds}

    def at_l0(
        self, name: str, tool: Tool, given: Problem, rate: float, target: float, strength: float, trials: int = MOST_TRIALS
    ) -> dict[str, float]:
        """The figures at the target L0, from trainings with several strengths of the sparsity term; ours steers by itself."""
        tried: list[dict[str, float]] = []
        searched = name != "ours" and given.setup["architecture"] not in LIKE_PEERS
        while len(tried) < trials:
            tried.append(self.train(name, tool, given, rate, strength))
            if not searched or (near(tried, target) and bracketed(tried, target)):
                break
            strength = next_strength(tried, target)
        return at_target(tried, target)

    def train(self, name: str, tool: Tool, given: Problem, rate: float, strength: float) -> dict[str, float]:
        """One training and its figures. Ours writes the initial parameters that the others read, so it goes first."""
        setup = given.setup | {"lr": rate, "strength": strength, "writes_initial": name == "ours"}
        if name in self.workers:
            self.workers[name].ask("restart", **setup)
        else:
            assert tool.python is not None
            self.workers[name] = self.enter_context(Worker(tool.script, tool.python, setup, self.folder, name))
            self.workers[name].ready()
        worker = self.workers[name]
        worker.ask("train", steps=self.steps - 1)  # some tools' schedules end a step before the budget does
        found = worker.ask("evaluate")
        decoder = Path(setup["scratch"]) / f"{name}.npy"
        worker.ask("decoder", path=str(decoder))
        return {
            "explained_variance": 1 - found["nmse"], "l0": found["l0"], "strength": strength,
            "mean_max_cosine": mean_max_cosine(np.load(decoder), given.directions),
        }  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What a worker is told, and the planted directions (n, d_in) that it is not told."""

    setup: dict[str, Any]
    directions: NDArray[np.float32]


def problem(folder: Path, architecture: str, seed: int, steps: int) -> Problem:
    """Activations of a seed on disk."""
    row = Row(architecture, **PROBLEM)
    written = write_activations(folder, row.d_in, min(steps, 512) * row.batch, 16 * row.batch, FEATURES, row.sparsity, seed)
    setup = asdict(row) | {
        "widths": row.widths, "warmup_steps": round(WARMUP_SHARE * steps), "decay_steps": round(DECAY_SHARE * steps), "total_steps": steps,
        "dead_tokens": round(DEAD_SHARE * steps * row.batch), "bandwidth": BANDWIDTH, "threads": 1, "device": "cpu", "seed": seed,
        "scratch": str(folder), "activations": str(written.activations), "held_out": str(written.held_out), "variance": written.variance,
        "initial": str(folder / "initial.npz"), "name": "arm", "options": {"auxk": 1 / 32}, "arms": False, "steers": True,
    }  # fmt: skip
    return Problem(setup, written.directions)


def mean_max_cosine(decoder: np.ndarray, directions: np.ndarray) -> float:
    """Mean over planted directions (n, d_in) of the largest cosine with a row of the decoder (d_sae, d_in)."""
    rows = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return float((unit @ rows.T).max(1).mean())


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Means per tool, and ours minus each peer with the interval over seeds."""
    result: dict[str, Any] = {"runs": runs, "tools": {}}
    for name, found in runs.items():
        tool: dict[str, Any] = {field: statistics.mean(run[field] for run in found) for field in (*FIGURES, "l0")}
        if name != "ours":
            tool["l0_matched"] = all(deviation(a, b["l0"]) <= L0_TOLERANCE for a, b in zip(found, runs["ours"], strict=True))
            for field in FIGURES:
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
    size = found["problem"]
    lines = [
        f"{found['date']}: {size['features']} planted features in {size['d_in']} dimensions, d_sae {size['d_sae']}, {size['sparsity']} active, "
        f"{found['steps'] * size['batch']:,} tokens, {found['seeds']} seeds. Differences are ours minus the peer's, with 95 % intervals over seeds.",
        "",
        "| architecture | tool | rate (seeds it was chosen on) | L0 | explained variance | difference | mean max cosine | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for architecture, result in found["architectures"].items():
        for name, tool in result["tools"].items():
            edge = " (outermost tried)" if result["rate_at_edge"][name] else ""
            mark = "" if tool.get("l0_matched", True) else " (not matched)"
            lines.append(
                f"| {architecture} | {name} | {result['rates'][name]:g} ({result['tuning_seeds']}){edge} | {tool['l0']:.2f}{mark} | {tool['explained_variance']:.4f} | {_words(tool.get('ours_minus_explained_variance'))} "
                f"| {tool['mean_max_cosine']:.4f} | {_words(tool.get('ours_minus_mean_max_cosine'))} |"
            )
    lines += ["", *(f"- {name} was not measured: {reason}." for name, reason in found["missing"].items())]
    return "\n".join([*lines, *(f"- {name}: {condition}." for name, condition in found["conditions"].items())])


def _words(difference: dict[str, float] | None) -> str:
    if difference is None:
        return ""
    span = f" [{difference['low']:+.4f}, {difference['high']:+.4f}]" if difference["low"] is not None else ""
    return f"{difference['mean']:+.4f}{span}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__, "for activations", TRAINERS)
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--seeds", type=int, choices=(1, *STUDENT), default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="that each tool may choose from")
    parser.add_argument("--tuning-seeds", type=int, default=TUNING_SEEDS, help="seeds that rates are chosen on")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
