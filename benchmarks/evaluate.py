"""Evaluating SAEs measured beside SAELens's evaluation and the one forward pass that no evaluation can do without.

    python benchmarks/evaluate.py                       # small model; add --shape gpt2 for the shape of GPT-2 small
    python benchmarks/evaluate.py --build-peers         # builds the other tool's environment first
    python benchmarks/evaluate.py --memory              # also: peak memory on 100 thousand and on 1 million tokens
    python benchmarks/evaluate.py --json | tail -n 1    # the same figures as one object
    python benchmarks/evaluate.py --render benchmarks/results/evaluate-small.json

Both tools get the same checkpoint, SAEs and token ids and take turns (see side_by_side.py). Every reconstruction, sparsity and
cross-entropy metric that a tool has is on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpt2_subject import FOLDER, SHAPES, make_checkpoint, make_ids
from peers import SAELENS
from program import Found, empty_folder, options, run, say
from side_by_side import Worker, machine, paired

CONTEXT_LENGTH = 128
"""What SAELens uses unless told otherwise."""
BATCH_SIZE = 16
"""Contexts per forward pass, in both tools."""
SHARD_TOKENS, YARDSTICK = 65_536, 1_024
"""The pipeline's own default for a cache; side of the matrices whose product is a yardstick."""
SAES = ("sae-0", "sae-1", "sae-2", "sae-3")
TOLERANCE = {"explained_variance": 1e-3, "mse": 1e-3, "l0": 1e-3, "cosine_similarity": 1e-3, "ce_clean": 2e-2, "ce_sae": 2e-2}
"""Largest relative difference of the tools' metrics. Cross-entropies are means over other targets, see docs/evaluation.md."""
MEMORY_TOKENS = (100_000, 1_000_000)
BUILD = "python benchmarks/evaluate.py --build-peers"

CASES = {"one": (1, False), "one_from_ids": (1, True), "four": (len(SAES), False), "four_from_ids": (len(SAES), True)}
"""SAEs, and whether the time of the set's activations and baseline, which all SAEs of a layer share, is counted too."""
LABELS = {
    "one": "one SAE", "one_from_ids": "one SAE, from token ids",
    "four": "4 SAEs of a layer", "four_from_ids": "4 SAEs of a layer, from token ids",
}  # fmt: skip

CONDITIONS = {
    "limit": "one clean forward pass with logits in plain transformers, nothing computed of it",
    "ours": "every metric of the SAEs with its sums per document and per latent, written to disk; the set's activations and baseline, and in it the clean "
    "model's residual stream on the scored text, lie there, as they do for every SAE of a set and layer but the first, so that only the spliced pass "
    "behind the hook is run. From token ids: harvest to disk (float32, with checksums and fsync) and baseline (losses clean, zero- and mean-ablated) "
    "are counted too",
    "sae-lens": "run_evals with every metric on, HookedTransformer (its default) without processing, one SAE after the other, nothing written; "
    "losses clean, with the SAE and zero-ablated; model and SAEs loaded before",
}


def main() -> None:
    """Parse, build, measure, print."""
    arguments = parsed()

    def measured() -> Found:
        with empty_folder(arguments.scratch / f"evaluate-{arguments.shape}") as folder:
            return measure(arguments, folder)

    run(arguments, measured, rendered, [SAELENS])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, as one object; top-level figures are those of one SAE on a set whose baseline is there."""
    import numpy as np

    shape = SHAPES[arguments.shape]
    contexts = arguments.contexts or shape.contexts
    if contexts % BATCH_SIZE:
        raise SystemExit(f"--contexts: expected a multiple of {BATCH_SIZE}, the contexts per forward pass, found {contexts}")
    make_checkpoint(folder / FOLDER, shape)
    np.save(folder / "tokens.npy", make_ids(contexts, CONTEXT_LENGTH, shape.vocab_size))
    layer = shape.quarters[1]
    setup = {
        "checkpoint": str(folder / FOLDER), "model_name": FOLDER, "tokens": str(folder / "tokens.npy"), "scratch": str(folder), "layer": layer, "layers": [layer],
        "d_sae": arguments.expansion * shape.d_model, "k": arguments.k, "saes": SAES, "contexts": contexts, "context_length": CONTEXT_LENGTH,
        "batch_size": BATCH_SIZE, "shard_tokens": SHARD_TOKENS, "precision": "float32", "threads": arguments.threads,
    }  # fmt: skip
    about = machine()
    compared = compare(setup, "sae-lens" in arguments.peers, arguments.rounds, folder)
    first = compared["cases"]["one"]
    return {
        "benchmark": "evaluate", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "shape": arguments.shape, "threads": arguments.threads, "rounds": arguments.rounds,
        "layer": layer, "d_model": shape.d_model, "d_sae": setup["d_sae"], "k": arguments.k, "tokens_per_round": contexts * CONTEXT_LENGTH,
        "ours": first["ours"], "peers": first["peers"] if SAELENS.python else peers_missing(arguments.peers),
        "ratio_to_best_peer": first["ratio_to_best_peer"], "fraction_of_limit": first["fraction_of_limit"],
        **compared,
        "memory": memory(setup, arguments.memory_tokens, folder) if arguments.memory else None,
        "machine": about, "conditions": CONDITIONS,
    }  # fmt: skip


def peers_missing(wanted: list[str]) -> dict[str, dict[str, str]]:
    """What stands in the place of the figures of a peer that was not built."""
    return {name: {"missing": f"no environment {SAELENS.environment}; build it with `{BUILD}`"} for name in wanted}


def compare(setup: dict[str, Any], with_peer: bool, rounds: int, folder: Path) -> dict[str, Any]:
    """Rounds of all tools, each starting with another one; metrics are compared before anything is timed."""
    measured: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:

        def start(script: str, python: str) -> Worker:
            worker = stack.enter_context(Worker(script, python, setup, folder))
            worker.ready()
            return worker

        limit, ours = start("plain_forward.py", sys.executable), start("our_evaluation.py", sys.executable)
        theirs = start("saelens_evaluation.py", SAELENS.python) if with_peer and SAELENS.python else None  # reads the SAEs that ours wrote
        turns: dict[str, tuple[Worker, str, dict[str, Any]]] = {
            "limit": (limit, "whole_forward", {}),
            "prepare": (ours, "prepare", {}),
            "ours 1": (ours, "evaluate", {"count": 1}),
            f"ours {len(SAES)}": (ours, "evaluate", {"count": len(SAES)}),
        }
        if theirs is not None:
            turns["sae-lens"] = (theirs, "evaluate", {})
        say(f"warming up {', '.join(turns)}")
        warm = {name: worker.ask(action, **options) for name, (worker, action, options) in turns.items()}
        if theirs is not None:
            check_same(warm[f"ours {len(SAES)}"]["metrics"], warm["sae-lens"]["metrics"])
        measured = {name: [] for name in (*turns, "yardsticks")}
        for n in range(rounds):
            say(f"round {n + 1} of {rounds}")
            measured["yardsticks"].append(limit.ask("yardsticks", size=YARDSTICK))
            names = list(turns)
            for name in names[n % len(names) :] + names[: n % len(names)]:
                worker, action, options = turns[name]
                measured[name].append(worker.ask(action, **options))
        workers = {"ours": ours} | ({"sae-lens": theirs} if theirs is not None else {})
        yardsticks = {name: statistics.median(each[name] for each in measured["yardsticks"]) for name in measured["yardsticks"][0]}
        return {
            "cases": {case: described(measured, count, counted, workers) for case, (count, counted) in CASES.items()},
            "limit": {"seconds": statistics.median(each["seconds"] for each in measured["limit"]), **limit.about},
            "yardsticks": yardsticks,
        }


def described(measured: dict[str, list[dict[str, Any]]], count: int, counted: bool, workers: dict[str, Worker]) -> dict[str, Any]:
    """One case: rates in tokens times SAEs per second, and the medians of the ratios within a round."""

    def with_rate(seconds: float, each: dict[str, Any]) -> dict[str, Any]:
        return {"seconds": seconds, "rate": each["tokens"] * count / seconds, "peak_mib": each["peak_mib"]}

    evaluated = measured[f"ours {count}"]
    once = [each["seconds"] if counted else 0.0 for each in measured["prepare"]]
    tools = {"ours": [with_rate(each["seconds"] + before, each) for each, before in zip(evaluated, once, strict=True)]}
    tools |= {name: [with_rate(sum(each["each"][:count]), each) for each in measured[name]] for name in workers if name != "ours"}
    limit = [{"rate": each["tokens"] / each["seconds"]} for each in measured["limit"]]
    found = {
        name: {
            "tokens_per_second": statistics.median(each["rate"] for each in rounds),
            "slowest": min(each["rate"] for each in rounds),
            "fastest": max(each["rate"] for each in rounds),
            "seconds": statistics.median(each["seconds"] for each in rounds),
            "loaded_mib": workers[name].resident_mib,
            "peak_mib": max(each["peak_mib"] for each in rounds),
            **workers[name].about,
        }
        for name, rounds in tools.items()
    }
    peers = {
        name: figures | {"ours_is_times_faster": paired(tools["ours"], tools[name], "rate")} for name, figures in found.items() if name != "ours"
    }
    return {
        "saes": count,
        "baseline_counted": counted,
        "ours": found["ours"],
        "peers": peers,
        "ratio_to_best_peer": min((peer["ours_is_times_faster"] for peer in peers.values()), default=None),
        "fraction_of_limit": paired(tools["ours"], limit, "rate"),
    }


def check_same(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> None:
    """Refuse to compare tools that measured something else."""
    for name, metrics in theirs.items():
        for metric, value in metrics.items():
            if abs(value / ours[name][metric] - 1) > TOLERANCE[metric]:
                raise SystemExit(f"{name}: expected {metric} {ours[name][metric]:.6g} as ours (within {TOLERANCE[metric]:.0e}), found {value:.6g}")


def memory(setup: dict[str, Any], sizes: list[int], folder: Path) -> dict[str, Any]:
    """Peaks of anonymous memory of the baseline and of evaluating one SAE on sets of several sizes, each SAE in a fresh process."""
    names = {f"long-{tokens}": tokens for tokens in sorted(sizes)}
    with Worker("our_evaluation.py", sys.executable, setup, folder, "write") as worker:
        worker.ready()
        say(f"writing sets of {', '.join(f'{tokens:,}' for tokens in names.values())} tokens")
        written = {name: worker.ask("write_long", name=name, rows=tokens) for name, tokens in names.items()}
    found = []
    for name, sizes_of in written.items():
        with Worker("our_evaluation.py", sys.executable, setup, folder, name) as worker:
            worker.ready()
            found.append(sizes_of | worker.ask("evaluate_long", name=name, outlier_norm=sizes_of["outlier_norm"]))
    small, large = found[0], found[-1]
    return {"sizes": found, "ratio": large["anonymous_mib"] / small["anonymous_mib"], "times_the_tokens": large["tokens"] / small["tokens"]}


def rendered(found: dict[str, Any]) -> str:
    """What a person reads."""
    about, rates = found["machine"], found["yardsticks"]
    lines = [
        f"{found['date']}: {about['cpu']}, {about['cores']} cores ({', '.join(about['bfloat16']) or 'no bfloat16 instructions'}), {about['memory_gib']} GiB; "
        f"{found['threads']} thread(s); load before {about['load_before'][0]}",
        f"shape {found['shape']}, resid_post of layer {found['layer']}, TopK {found['d_model']} x {found['d_sae']}, k = {found['k']}, "
        f"{found['tokens_per_round']:,} tokens a round, median of {found['rounds']} rounds",
        "",
        f"{'':50}{'seconds':>10}{'tokens/s':>10}{'(range)':>18}{'ours is':>10}{'of limit':>10}{'peak MiB':>10}",
        f"{'limit: one clean pass':50}{found['limit']['seconds']:>10.2f}",
    ]
    for case, part in found["cases"].items():
        lines.append(_line(f"{LABELS[case]}: ours", part["ours"], None, part["fraction_of_limit"]))
        lines += [_line(f"{LABELS[case]}: {name}", peer, peer["ours_is_times_faster"], None) for name, peer in part["peers"].items()]
    lines += [
        f"yardsticks: matrix product float32 {rates['float32_gflops']:.0f}, bfloat16 {rates['bfloat16_gflops']:.0f} GFLOP/s, copy {rates['copy_gb_per_second']:.1f} GB/s",
        *(f"{name}: missing, {peer['missing']}" for name, peer in found["peers"].items() if "missing" in peer),
    ]
    if found["memory"]:
        lines += ["", f"{'peak anonymous memory, one SAE':50}{'tokens':>12}{'evaluation MiB':>16}{'baseline MiB':>14}"]
        lines += [
            f"{'':50}{each['tokens']:>12,}{each['anonymous_mib']:>16,.0f}{each['baseline_anonymous_mib']:>14,.0f}"
            for each in found["memory"]["sizes"]
        ]
        lines.append(f"{found['memory']['times_the_tokens']:.1f} times the tokens take {found['memory']['ratio']:.3f} times the memory")
    lines += ["", "tokens/s counts a token once per SAE; 'ours is' is the median of the ratios within a round. What each did:"]
    return "\n".join([*lines, *(f"  {name}: {condition}" for name, condition in found["conditions"].items())])


def _line(label: str, tool: dict[str, Any], ratio: float | None, of_limit: float | None) -> str:
    """One line of the table."""
    times, share = (f"{value:.2f}x" if value is not None else "" for value in (ratio, of_limit))
    span = f"{tool['slowest']:,.0f}-{tool['fastest']:,.0f}"
    return f"{label:50}{tool['seconds']:>10.2f}{tool['tokens_per_second']:>10,.0f}{span:>18}{times:>10}{share:>10}{tool['peak_mib']:>10,.0f}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__, "for model, SAEs and activations", [SAELENS])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--threads", type=int, default=1, help="of every tool; 1 is the primary figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=int, help="of one round, instead of the shape's")
    parser.add_argument("--expansion", type=int, default=8, help="latents of an SAE per dimension of the model")
    parser.add_argument("--k", type=int, default=32, help="active latents per token")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory on --memory-tokens")
    parser.add_argument("--memory-tokens", type=int, nargs="+", default=list(MEMORY_TOKENS))
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round: to see whether everything works")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.shape, arguments.rounds, arguments.contexts, arguments.memory_tokens = "tiny", 1, BATCH_SIZE, [2_000, 20_000]
    return arguments


if __name__ == "__main__":
    main()
