"""Training steps measured beside the tools they replace and the product they cannot do without, in one run.

    python benchmarks/train.py --build-peers                          # builds the other tools' environments first
    python benchmarks/train.py --output benchmarks/results/train-cpu.json
    python benchmarks/train.py --rows topk-512x4096-b1024 --json | tail -n 1
    python benchmarks/train.py --device cuda                          # the row of a GPU
    python benchmarks/train.py --render benchmarks/results/train-cpu.json

All tools train on the same activations in memory, from the same parameters, with Adam at the same rate, and take turns
(see side_by_side.py). Nothing is timed before the tools have been found to train alike (see agreement.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import agreement
from peers import TRAINERS
from program import options, run, say
from side_by_side import Worker, machine, paired
from training_rows import ARMS, ARMS_ROW, CUDA_ROWS, ROWS, Row, write_activations
from training_setup import base_setup, problem_setup, told
from training_table import rendered
from training_tools import CONDITIONS, CUDA_TOOLS, OURS, PEER_TOOLS, Tool

BATCHES = 8
"""Distinct batches in memory; they are handed out again and again."""
YARDSTICK = 1_024
"""Side of the matrices whose product is a yardstick."""
FIRST_STEPS = 2
"""Steps of every tool at the row's own size before anything is timed; the errors before and after them are compared too."""


def main() -> None:
    """Parse, build, measure, print."""
    arguments = parsed()
    run(arguments, lambda: measure(arguments), rendered, TRAINERS)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every row, as one object."""
    result: dict[str, Any] = {
        "benchmark": "train", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine(), "device": arguments.device,
        "threads": arguments.threads, "rounds": arguments.rounds,
        "compared": agreement.SIZE | {"lr": agreement.LEARNING_RATE}, "conditions": CONDITIONS, "rows": {},
    }  # fmt: skip
    reason = not_measurable(arguments.device)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    compared: dict[str, dict[str, agreement.Trajectory]] = {}
    for row in chosen_rows(arguments):
        if reason:
            result["rows"][row.name] = {"row": asdict(row), "not_measured": reason}
            continue
        result["rows"][row.name] = measure_row(row, arguments, compared)
        say(f"{row.name}: {in_short(result['rows'][row.name])}")
    if arguments.device == "cpu":
        if arguments.arms:
            result["arms"] = measure_arms(arguments)
        if not arguments.rows:
            for row in CUDA_ROWS:
                result["rows"][row.name] = {"row": asdict(row), "not_measured": "a row of a GPU; run with --device cuda on a machine that has one"}
    result["machine"]["load_after"] = machine()["load_before"]
    return result


def chosen_rows(arguments: argparse.Namespace) -> list[Row]:
    """The rows asked for, at the size asked for."""
    available = ROWS if arguments.device == "cpu" else CUDA_ROWS
    rows = [row for row in available if not arguments.rows or row.name in arguments.rows]
    if arguments.rows and len(rows) < len(set(arguments.rows)):
        raise SystemExit(f"--rows: expected some of {', '.join(row.name for row in available)}, found {', '.join(arguments.rows)}")
    if not arguments.quick:
        return rows
    return list({row.name: row for row in (row.tiny() for row in rows)}.values())


def not_measurable(device: str) -> str | None:
    """Why nothing can be measured on this device, or None."""
    import torch

    return "this machine has no CUDA device" if device == "cuda" and not torch.cuda.is_available() else None


def tools_for(row: Row, arguments: argparse.Namespace) -> tuple[dict[str, Tool], dict[str, str]]:
    """The tools that train this row, ours first, and why others are missing."""
    tools = dict(OURS) if arguments.device == "cpu" else {"ours": OURS["ours"]}
    if importlib.util.find_spec("numba") is None:
        tools.pop("ours, numba", None)
    missing = {}
    for name, tool in PEER_TOOLS.items():
        assert tool.peer is not None
        if tool.peer.name not in arguments.peers or (tool.architectures and row.architecture not in tool.architectures):
            continue
        if arguments.device == "cuda" and name not in CUDA_TOOLS:
            continue
        if tool.absence is not None:
            missing[name] = tool.absence
        else:
            tools[name] = tool
    return tools, missing


def measure_row(row: Row, arguments: argparse.Namespace, compared: dict[str, dict[str, agreement.Trajectory]]) -> dict[str, Any]:
    """One row: the tools compared, then rounds of all tools, each starting with another one.

    Args:
        compared: trajectories of the small problem by architecture and tool; filled when an architecture comes first.
    """
    folder = arguments.scratch / f"train-{row.name}"
    shutil.rmtree(folder, ignore_errors=True)
    say(f"{row.name}: writing activations")
    tools, missing = tools_for(row, arguments)
    setup = problem_setup(row, arguments, folder, BATCHES)
    first = setup
    if row.architecture not in compared:
        small = {"lr": agreement.LEARNING_RATE, "steers": False}
        first = problem_setup(agreement.problem(row.architecture), arguments, folder / "compared", agreement.BATCHES) | small
    try:
        with ExitStack() as stack:
            limit = stack.enter_context(Worker("encoder_limit.py", sys.executable, setup, folder))
            workers: dict[str, Worker] = {}
            for name, tool in tools.items():
                own = told(name, tool)
                assert tool.python is not None
                workers[name] = stack.enter_context(Worker(tool.script, tool.python, first | own, folder, own["name"], tool.variables))
                if name == "ours":  # the others begin with its parameters
                    workers[name].ready()
            for worker in (limit, *(worker for name, worker in workers.items() if name != "ours")):
                worker.ready()
            if first is not setup:
                halves = (arguments.steps // 2, arguments.steps - arguments.steps // 2) if arguments.steps else agreement.halves(row.architecture)
                say(f"{row.name}: comparing what the tools improve in {sum(halves)} steps")
                compared[row.architecture] = {name: trajectory(worker, halves) for name, worker in workers.items()}
                for name, worker in workers.items():
                    worker.ask("restart", **(setup | told(name, tools[name])))
            say(f"{row.name}: first steps")
            started = {name: trajectory(worker, (FIRST_STEPS,)) for name, worker in workers.items()}
            measured: dict[str, list[dict[str, Any]]] = {name: [] for name in (*workers, "limit", "yardsticks")}
            for n in range(arguments.rounds):
                say(f"{row.name}: round {n + 1} of {arguments.rounds}")
                if arguments.device == "cpu":
                    measured["yardsticks"].append(limit.ask("yardsticks", size=YARDSTICK))
                measured["limit"].append(limit.ask("limit"))
                names = list(workers)
                for name in names[n % len(names) :] + names[: n % len(names)]:
                    result = workers[name].ask("run", seconds=arguments.seconds, least=1 if arguments.device == "cpu" else 2)
                    measured[name].append(result | {"rate": result["tokens"] / result["seconds"]})
        return summarised(row, measured, compared[row.architecture], started, workers, missing)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def trajectory(worker: Worker, steps: Iterable[int]) -> agreement.Trajectory:
    """Errors on held-out rows before training and after each of these numbers of further steps."""
    found = [worker.ask("evaluate")]
    for count in steps:
        worker.ask("train", steps=count)
        found.append(worker.ask("evaluate"))
    return [{field: value for field, value in each.items() if field in ("steps", "nmse", "l0")} for each in found]


def summarised(
    row: Row,
    measured: dict[str, list[dict[str, Any]]],
    losses: dict[str, agreement.Trajectory],
    started: dict[str, agreement.Trajectory],
    workers: dict[str, Worker],
    missing: dict[str, str],
) -> dict[str, Any]:
    """A row's object.

    Args:
        losses: of the small problem.
        started: of the first steps at the row's size.
    """
    tools = {}
    for name, worker in workers.items():
        rates = [each["rate"] for each in measured[name]]
        tools[name] = {
            "tokens_per_second": statistics.median(rates), "slowest": min(rates), "fastest": max(rates),
            "milliseconds_per_step": 1e3 * row.batch / statistics.median(rates), "peak_mib": max(each["peak_mib"] for each in measured[name]),
            "losses": losses[name], "first_steps": started[name], **worker.about,
        }  # fmt: skip
        if "device_peak_mib" in measured[name][0]:
            tools[name]["device_peak_mib"] = max(each["device_peak_mib"] for each in measured[name])
        if name != "ours":
            tools[name]["ours_is_times_faster"] = paired(measured["ours"], measured[name], "rate")
            pairs = [(each["ours"], each[name]) for each in (losses, started)]
            tools[name]["improvement_difference"], tools[name]["first_steps_difference"] = (agreement.improvement_difference(*pair) for pair in pairs)
            tools[name]["losses_agree"] = all(agreement.agree(*pair) for pair in pairs)
    peers = {name: tool for name, tool in tools.items() if name not in OURS}
    exact = {name: tool for name, tool in peers.items() if not PEER_TOOLS[name].reduced}
    fractions = {
        dtype: statistics.median(
            limit[f"{dtype}_seconds"] / (row.batch / ours["rate"]) for limit, ours in zip(measured["limit"], measured["ours"], strict=True)
        )
        for dtype in ("float32", "bfloat16")
    }
    return {
        "row": asdict(row),
        "ours": tools["ours"],
        "ours_by_kernels": {name: tools[name] for name in OURS if name != "ours" and name in tools},
        "peers": peers | {name: {"missing": reason} for name, reason in missing.items()},
        "ratio_to_best_peer": min((peer["ours_is_times_faster"] for peer in peers.values()), default=None),
        "ratio_to_best_float32_peer": min((peer["ours_is_times_faster"] for peer in exact.values()), default=None),
        "best_float32_peer": min(exact, key=lambda name: exact[name]["ours_is_times_faster"], default=None),
        "best_peer": min(peers, key=lambda name: peers[name]["ours_is_times_faster"], default=None),
        "fraction_of_limit": fractions,
        "losses_agree": all(tool["losses_agree"] for name, tool in tools.items() if name != "ours"),
        "tolerance": agreement.TOLERANCE,
        "limit_milliseconds": {dtype: 1e3 * statistics.median(each[f"{dtype}_seconds"] for each in measured["limit"]) for dtype in fractions},
        "yardsticks": {
            name: statistics.median(each[name] for each in measured["yardsticks"])
            for name in (measured["yardsticks"][0] if measured["yardsticks"] else {})
            if name != "peak_mib"
        },
    }


def measure_arms(arguments: argparse.Namespace) -> dict[str, Any]:
    """Several arms on one stream against the same arms one after the other, on all processors: that is what they share."""
    row, count, steps = (ARMS_ROW.tiny(), 3, 3) if arguments.quick else (ARMS_ROW, ARMS, 12)
    threads = os.cpu_count() or 1
    folder = arguments.scratch / "train-arms"
    shutil.rmtree(folder, ignore_errors=True)
    written = write_activations(folder, row.d_in, 2 * BATCHES * row.batch, row.batch, n_features=2 * row.d_in, l0=row.sparsity, seed=0)
    setup = base_setup(row, arguments, folder, written) | {"name": "arms", "arms": True, "threads": threads}
    try:
        with Worker("our_training.py", sys.executable, setup, folder, "arms") as worker:
            worker.ready()
            measured: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
            for n in range(arguments.rounds + 1):
                say(f"{count} arms: round {n} of {arguments.rounds}")
                for together in (True, False) if n % 2 else (False, True):
                    result = worker.ask("arms", count=count, steps=steps, together=together)
                    if n:  # the first round warms up
                        measured[together].append(result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "row": asdict(row), "arms": count, "steps": steps, "threads": threads,
        "together_over_apart": paired(measured[True], measured[False], "seconds"),
        "together_tokens_per_second": statistics.median(each["tokens"] / each["seconds"] for each in measured[True]),
        "apart_tokens_per_second": statistics.median(each["tokens"] / each["seconds"] for each in measured[False]),
        "together_peak_mib": max(each["peak_mib"] for each in measured[True]), "apart_peak_mib": max(each["peak_mib"] for each in measured[False]),
    }  # fmt: skip


def in_short(row: dict[str, Any]) -> str:
    """A row for the progress."""
    ratio = f", {row['ratio_to_best_peer']:.2f} times {row['best_peer']}" if row["best_peer"] else ""
    return f"{row['ours']['tokens_per_second']:,.0f} activations/s{ratio}, {row['fraction_of_limit']['float32']:.2f} of the float32 limit"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__, "for activations", TRAINERS)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"instead of all: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of every tool; 1 is the primary figure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of one tool's turn, at least one step")
    parser.add_argument("--steps", type=int, help="after which the tools' losses are compared, instead of an architecture's own number")
    parser.add_argument("--arms", action=argparse.BooleanOptionalAction, default=True, help=f"measure {ARMS} arms on one stream too")
    parser.add_argument("--quick", action="store_true", help="tiny rows: whether everything runs, not how fast")
    return parser.parse_args()


if __name__ == "__main__":
    main()
