"""Harvesting measured beside the forward pass it cannot beat and the tools it replaces, in one run.

    python benchmarks/harvest.py                       # small model; add --shape gpt2 for the shape of GPT-2 small
    python benchmarks/harvest.py --build-peers         # builds the other tools' environments first
    python benchmarks/harvest.py --json | tail -n 1    # the same figures as one object
    python benchmarks/harvest.py --render benchmarks/results/harvest-small.json

All tools get the same checkpoint and the same token ids and take turns (see side_by_side.py). Four layers are asked
for, the last of each quarter of the depth, unless `--layers` names others. What cannot be
made equal between the tools is printed with the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpt2_subject import FOLDER, SHAPES, Shape, make_checkpoint, make_ids
from peers import DICTIONARY_LEARNING, SAELENS
from program import Found, empty_folder, options, run, say
from side_by_side import Peer, Worker, machine, paired

CONTEXT_LENGTH = 128
"""What SAELens and dictionary_learning use unless told otherwise."""
BATCH_SIZE = 16
"""Contexts per forward pass, in every tool."""
SHARD_TOKENS, SHUFFLE_TOKENS, TRAIN_BATCH = 65_536, 1_048_576, 4_096
"""The pipeline's own defaults for a cache and its stream, and the batch that SAEs are trained with."""
YARDSTICK = 1_024
"""Side of the matrices whose product is a yardstick."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Largest relative difference between the tools' mean activations at a layer, which other text, or a BOS too few, exceeds."""

PEERS = {peer.name: peer for peer in (SAELENS, DICTIONARY_LEARNING)}
SCRIPTS = {"sae-lens": "saelens_cache.py", "dictionary_learning": "dictionary_learning_buffer.py"}
BUILD = "python benchmarks/harvest.py --build-peers"

CONDITIONS = {
    "limit": "plain transformers with the faster of its attention implementations; blocks up to the last hooked one, no logits, nothing kept",
    "ours": "all layers from one pass, which stops at the last; written to disk with fsync, checksums, statistics and the "
    "document of each row, by a background thread beside those of --threads",
    "sae-lens": "CacheActivationsRunner (HookedTransformer, its default): one run per layer, stops behind that layer; gathers in float32, writes Arrow "
    "files (float16 where ours writes bfloat16, which Arrow lacks) with token ids, without fsync; prepend_bos and shuffle off, model loading not counted",
    "dictionary_learning": "ActivationBuffer: one buffer per layer, stops behind it; keeps activations in memory, shuffled over two rounds, and hands them out "
    "once; nothing is written to disk; reads text, so tokenising is included (one word per id, the same ids, BOS kept)",
}


def main() -> None:
    """Parse, build, measure, print."""
    arguments = parsed()

    def measured() -> Found:
        with empty_folder(arguments.scratch / f"harvest-{arguments.shape}") as folder:
            return measure(arguments, SHAPES[arguments.shape], [PEERS[name] for name in arguments.peers], folder)

    run(arguments, measured, rendered, list(PEERS.values()))


def measure(arguments: argparse.Namespace, shape: Shape, wanted: list[Peer], folder: Path) -> dict[str, Any]:
    """Everything, as one object; top-level figures are those of the first precision."""
    import numpy as np

    contexts, layers = arguments.contexts or shape.contexts, arguments.layers or shape.quarters
    if not set(layers) <= set(range(shape.n_layers)):
        raise SystemExit(f"--layers: expected blocks from 0 to {shape.n_layers - 1}, found {layers}")
    if contexts % BATCH_SIZE:
        raise SystemExit(f"--contexts: expected a multiple of {BATCH_SIZE}, the contexts per forward pass, found {contexts}")
    make_checkpoint(folder / FOLDER, shape)
    np.save(folder / "tokens.npy", make_ids(contexts, CONTEXT_LENGTH, shape.vocab_size))
    about = machine()
    precisions = {}
    for precision in arguments.precisions:
        setup = {
            "checkpoint": str(folder / FOLDER), "model_name": FOLDER, "tokens": str(folder / "tokens.npy"), "scratch": str(folder),
            "layers": layers, "d_model": shape.d_model, "contexts": contexts, "batch_size": BATCH_SIZE,
            "shard_tokens": SHARD_TOKENS, "precision": precision, "threads": arguments.threads,
        }  # fmt: skip
        last = precision == arguments.precisions[-1]
        precisions[precision] = compare(setup, wanted, arguments.rounds, folder, arguments.stream_tokens if last else None)
    stream = precisions[arguments.precisions[-1]].pop("stream")
    first = precisions[arguments.precisions[0]]
    if set(precisions) == set(TOLERANCE):
        fast, exact = precisions["bfloat16"], precisions["float32"]
        ours = fast["tools"]["ours"]["tokens_per_second"]
        fast["ours_over_peers_in_float32"] = {name: ours / exact["tools"][name]["tokens_per_second"] for name in exact["tools"] if name in PEERS}
    return {
        "benchmark": "harvest", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "shape": arguments.shape, "precision": arguments.precisions[0], "threads": arguments.threads, "rounds": arguments.rounds,
        "layers": layers, "tokens_per_round": contexts * CONTEXT_LENGTH, "context_length": CONTEXT_LENGTH, "batch_size": BATCH_SIZE,
        "ours": first["tools"]["ours"],
        "peers": {name: tool for name, tool in first["tools"].items() if name in PEERS} | peers_missing(wanted),
        "ratio_to_best_peer": first["ratio_to_best_peer"],
        "fraction_of_limit": first["fraction_of_limit"],
        "bytes_per_token": stream["bytes_per_token"], "overhead_of_two_bytes_per_value": stream["bytes_per_token"] / (2 * shape.d_model) - 1,
        "stream": stream,
        "precisions": precisions,
        "machine": about, "conditions": CONDITIONS,
    }  # fmt: skip


def peers_missing(wanted: list[Peer]) -> dict[str, dict[str, str]]:
    """What stands in the place of the figures of a peer that was not built."""
    return {peer.name: {"missing": f"no environment {peer.environment}; build it with `{BUILD}`"} for peer in wanted if peer.python is None}


def compare(setup: dict[str, Any], wanted: list[Peer], rounds: int, folder: Path, stream_tokens: int | None) -> dict[str, Any]:
    """Rounds of all tools in one precision, each starting with another tool; then, if asked, reading back."""
    with ExitStack() as stack:

        def start(script: str, python: str) -> Worker:
            return stack.enter_context(Worker(script, python, setup, folder))

        limit = start("plain_forward.py", sys.executable)
        tools = {"ours": start("our_harvest.py", sys.executable)}
        tools |= {peer.name: start(SCRIPTS[peer.name], peer.python) for peer in wanted if peer.python is not None}
        turns = {"limit": (limit, "forward"), "whole": (limit, "whole_forward")} | {name: (worker, "harvest") for name, worker in tools.items()}
        for worker in (limit, *tools.values()):
            worker.ready()
        say(f"{setup['precision']}: warming up {', '.join(turns)}")
        for worker, action in list(turns.values())[:2]:
            worker.ask(action)
        check_same({name: worker.ask("harvest", check=True)["mean_activation"] for name, worker in tools.items()}, TOLERANCE[setup["precision"]])
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in (*turns, "yardsticks")}
        for n in range(rounds):
            say(f"{setup['precision']}: round {n + 1} of {rounds}")
            measured["yardsticks"].append(limit.ask("yardsticks", size=YARDSTICK))
            names = list(turns)
            for name in names[n % len(names) :] + names[: n % len(names)]:
                worker, action = turns[name]
                result = worker.ask(action)
                measured[name].append(result | {"rate": result["tokens"] / result["seconds"]})
        result = {"tools": {name: described(measured[name], worker) for name, worker in tools.items()}}
        result["limit"] = described(measured["limit"], limit)
        if stream_tokens is not None:
            result["stream"] = read_back(tools["ours"], stream_tokens, rounds)
    ratios = {name: paired(measured["ours"], measured[name], "rate") for name in tools if name != "ours"}
    for name, ratio in ratios.items():
        result["tools"][name]["ours_is_times_faster"] = ratio
    yardsticks = {name: statistics.median(each[name] for each in measured["yardsticks"]) for name in measured["yardsticks"][0]}
    return result | {
        "ratio_to_best_peer": min(ratios.values(), default=None),
        "fraction_of_limit": paired(measured["ours"], measured["limit"], "rate"),
        "fraction_of_whole_forward": paired(measured["ours"], measured["whole"], "rate"),
        "whole_forward_tokens_per_second": statistics.median(each["rate"] for each in measured["whole"]),
        "yardsticks": yardsticks,
    }


def described(measured: list[dict[str, Any]], worker: Worker) -> dict[str, Any]:
    """One tool's figures: median and range of its rate, bytes on disk per token and layer, memory."""
    rates = [each["rate"] for each in measured]
    found = {
        "tokens_per_second": statistics.median(rates), "slowest": min(rates), "fastest": max(rates),
        "loaded_mib": worker.resident_mib, "peak_mib": max(each["peak_mib"] for each in measured),
    }  # fmt: skip
    if "bytes" in measured[0]:
        found["bytes_per_token"] = measured[0]["bytes"] / measured[0]["tokens"]
    return found | worker.about


def check_same(found: dict[str, list[list[float]]], tolerance: float) -> None:
    """Refuse to compare tools that captured different activations; a mean does not depend on their order."""
    import numpy as np

    for name, means in found.items():
        worst = max(np.linalg.norm(np.subtract(theirs, ours)) / np.linalg.norm(ours) for theirs, ours in zip(means, found["ours"], strict=True))
        if worst > tolerance:
            raise SystemExit(f"{name}: expected the mean activation of ours at every layer (relative distance up to {tolerance}), found {worst:.3g}")


def read_back(worker: Worker, tokens: int, rounds: int) -> dict[str, Any]:
    """Our shuffled stream over a cache of ``tokens`` tokens against reading its files from end to end, warm and cold."""
    say(f"writing a cache of {tokens:,} tokens for the stream")
    cache = worker.ask("fill_cache", rows=tokens)
    measured: dict[str, list[dict[str, Any]]] = {}
    for n in range(rounds + 1):
        say(f"stream: round {n} of {rounds}")
        for cold in (False, True):
            turns = [
                ("sequential", {}),
                ("sequential_rows", {}),
                ("stream", {"epoch": 2 * n + cold, "size": TRAIN_BATCH, "shuffle_tokens": SHUFFLE_TOKENS}),
            ]
            for action, settings in turns[:: -1 if n % 2 else 1]:
                result = worker.ask(action, cold=cold, **settings)
                if n:  # the first round warms up
                    measured.setdefault(f"{action} {cold}", []).append(result)
    found: dict[str, Any] = {"tokens": cache["tokens"], "shuffle_tokens": SHUFFLE_TOKENS, "bytes_per_token": cache["bytes"] / cache["tokens"]}
    found["write_mb_per_second"] = cache["bytes"] / cache["seconds"] / 1e6
    for name, cold in (("warm", False), ("cold", True)):
        straight, rows, shuffled = (measured[f"{action} {cold}"] for action in ("sequential", "sequential_rows", "stream"))
        for each in straight:
            each["rate"] = cache["tokens"] / each["seconds"]
        for each in (*rows, *shuffled):
            each["rate"] = each["tokens"] / each["seconds"]
        found[name] = {
            "tokens_per_second": statistics.median(each["rate"] for each in shuffled),
            "sequential_mb_per_second": statistics.median(each["bytes"] / each["seconds"] for each in straight) / 1e6,
            "fraction_of_sequential": paired(shuffled, straight, "rate"),
            "fraction_of_sequential_rows": paired(shuffled, rows, "rate"),
            "peak_mib": max(each["peak_mib"] for each in shuffled),
        }
    return found


def rendered(found: dict[str, Any]) -> str:
    """What a person reads."""
    about = found["machine"]
    lines = [
        f"{found['date']}: {about['cpu']}, {about['cores']} cores ({', '.join(about['bfloat16']) or 'no bfloat16 instructions'}), {about['memory_gib']} GiB; "
        f"{found['threads']} thread(s); load before {about['load_before'][0]}",
        f"shape {found['shape']}, layers {found['layers']}, {found['tokens_per_round']:,} tokens a round, median of {found['rounds']} rounds",
        "",
        f"{'':38}{'tokens/s':>10}{'(range)':>18}{'ours is':>10}{'bytes/token':>13}{'memory MiB':>12}{'peak MiB':>10}",
    ]
    for precision, part in found["precisions"].items():
        lines.append(_line(f"{precision}: limit, plain forward passes", part["limit"], part["fraction_of_limit"]))
        lines += [_line(f"{precision}: {name}", tool, tool.get("ours_is_times_faster")) for name, tool in part["tools"].items()]
        whole = f"{precision}: plain forward, whole model"
        rates = part["yardsticks"]
        lines += [
            f"{whole:38}{part['whole_forward_tokens_per_second']:>10,.0f}{part['fraction_of_whole_forward']:>27.2f}x",
            f"{precision}: yardsticks: matrix product float32 {rates['float32_gflops']:.0f}, bfloat16 {rates['bfloat16_gflops']:.0f} GFLOP/s, "
            f"copy {rates['copy_gb_per_second']:.1f} GB/s",
            "",
        ]
    lines += [
        f"ours in bfloat16 over {name} in float32, its default: {ratio:.1f}x (medians of the two parts of the run, not paired)"
        for name, ratio in found["precisions"].get("bfloat16", {}).get("ours_over_peers_in_float32", {}).items()
    ]
    lines += [f"{name}: missing, {peer['missing']}" for name, peer in found["peers"].items() if "missing" in peer]
    stream = found["stream"]
    lines += [
        "",
        f"shuffled stream over {stream['tokens']:,} tokens, {stream['bytes_per_token']:.0f} bytes each (bfloat16), batches of {TRAIN_BATCH}",
    ]
    for name in ("warm", "cold"):
        part = stream[name]
        lines.append(
            f"  {name} files: {part['tokens_per_second']:,.0f} tokens/s, {part['fraction_of_sequential']:.0%} of reading the same files in sequence "
            f"({part['sequential_mb_per_second']:,.0f} MB/s), {part['fraction_of_sequential_rows']:.0%} of reading their rows in order as float32; "
            f"peak {part['peak_mib']:,.0f} MiB"
        )
    lines += ["", "bytes/token is per layer; 'ours is' is the median of the ratios within a round. What each did:"]
    return "\n".join([*lines, *(f"  {name}: {condition}" for name, condition in found["conditions"].items())])


def _line(label: str, tool: dict[str, Any], ratio: float | None) -> str:
    """One line of the table."""
    times = f"{ratio:.2f}x" if ratio is not None else ""
    size = f"{tool['bytes_per_token']:,.1f}" if "bytes_per_token" in tool else ""
    span = f"{tool['slowest']:,.0f}-{tool['fastest']:,.0f}"
    return f"{label:38}{tool['tokens_per_second']:>10,.0f}{span:>18}{times:>10}{size:>13}{tool['loaded_mib']:>12,.0f}{tool['peak_mib']:>10,.0f}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__, "for model and caches, on the disk to measure", list(PEERS.values()))
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--threads", type=int, default=1, help="of every tool; 1 is the primary figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=TOLERANCE, default=list(TOLERANCE), help="the first is that of the top-level figures")
    parser.add_argument("--layers", type=int, nargs="+", help="whose resid_post is harvested, instead of the last of each quarter")
    parser.add_argument("--contexts", type=int, help="of one round, instead of the shape's")
    parser.add_argument("--stream-tokens", type=int, default=4_000_000, help="in the cache that the stream is read from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
