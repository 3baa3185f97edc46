"""One-to-one matching of two dictionaries measured beside SciPy's solver on the matrix of all cosines.

    python benchmarks/match.py                          # 4,096, 8,192 and 16,384 latents; minutes, and 6 GiB for SciPy
    python benchmarks/match.py --large                  # also: ours alone at 32,768 latents
    python benchmarks/match.py --json | tail -n 1       # the same figures as one object
    python benchmarks/match.py --render benchmarks/results/match.json

Both start from two dictionaries of unit rows and return a partner for every latent (see side_by_side.py for how they take
turns). Their totals must agree, so the time is that of the same result.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from program import Found, empty_folder, options, run, say
from side_by_side import Worker, machine, paired

SIZES, LARGE = (4_096, 8_192, 16_384), 32_768
YARDSTICK = 1_024
"""Side of the matrices whose product is a yardstick."""
TOLERANCE = 1e-6
"""Largest relative difference of the totals of cosines: the rounding of float32 products."""
KINDS = {
    "related": "half of the latents are common, with noise that leaves them a cosine of 0.82, in another order; the others are random",
    "unrelated": "random directions, where every latent has many partners that are nearly as good",
}
"""As workers/dictionaries.py makes them."""

CONDITIONS = {
    "ours": "sae_pipeline.matching.assignment.assign: candidates from the exact top 64 of each row, SciPy's sparse solver, dual prices, and every "
    "other cosine compared with them until none is above; the result is proven optimal to the rounding of float32; kernels as the engine chooses them",
    "scipy": "the float32 product and linear_sum_assignment on it, which works on a float64 copy",
    "product": "all cosines in float32, block by block, none kept: what any method that looks at all of them in float32 takes",
    "peak MiB": "resident memory of the process while it matched, dictionaries and libraries included; a process for each number of latents",
    **KINDS,
}


def main() -> None:
    """Parse, measure, print."""
    arguments = parsed()

    def measured() -> Found:
        with empty_folder(arguments.scratch / "match") as folder:
            return measure(arguments, folder)

    run(arguments, measured, rendered)


def measure(arguments: argparse.Namespace, folder: Path) -> Found:
    """Every size with both tools, then the large one with ours."""
    setup = {"threads": arguments.threads, "d_model": arguments.d_model}
    about = machine()
    rows: list[Found] = []
    yardsticks: list[Found] = []
    for n in arguments.sizes:
        rows += compared(setup, n, arguments.rounds, folder, yardsticks)
    for n in [arguments.large_size] if arguments.large else []:
        rows += alone(setup, n, folder)
    return {
        "benchmark": "match", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "threads": arguments.threads, "rounds": arguments.rounds,
        "d_model": arguments.d_model, "rows": rows, "yardsticks": {name: statistics.median(each[name] for each in yardsticks) for name in yardsticks[0]},
        "machine": about, "conditions": CONDITIONS,
    }  # fmt: skip


def compared(setup: Found, n: int, rounds: int, folder: Path, yardsticks: list[Found]) -> list[Found]:
    """Both kinds of dictionaries of n latents, in rounds that each start with the other tool."""
    found = []
    with Worker("our_matching.py", sys.executable, setup, folder) as ours, Worker("dense_matching.py", sys.executable, setup, folder) as scipy:
        tools = {"ours": ours, "scipy": scipy}
        for tool in tools.values():
            tool.ready()
        for kind in KINDS:
            measured: dict[str, list[Found]] = {"ours": [], "scipy": [], "product": []}
            for number in range(rounds):
                say(f"{n:,} latents, {kind}: round {number + 1} of {rounds}")
                yardsticks.append(ours.ask("yardsticks", size=YARDSTICK))
                measured["product"].append(ours.ask("product", kind=kind, n=n))
                for name in sorted(tools, reverse=number % 2 == 1):
                    measured[name].append(tools[name].ask("match", kind=kind, n=n))
            check_same(kind, n, measured["ours"][0]["total"], measured["scipy"][0]["total"])
            found.append(
                described(kind, n, measured)
                | {"scipy": summary(measured["scipy"]), "ours_is_times_faster": paired(measured["scipy"], measured["ours"], "seconds")}
            )
    return found


def alone(setup: Found, n: int, folder: Path) -> list[Found]:
    """Ours, once, where SciPy would take too much time and memory; each kind in a fresh process."""
    found = []
    for kind in KINDS:
        say(f"{n:,} latents, {kind}: ours alone")
        with Worker("our_matching.py", sys.executable, setup, folder) as ours:
            ours.ready()
            matched = ours.ask("match", kind=kind, n=n)
            measured = {"ours": [matched], "product": [ours.ask("product", kind=kind, n=n)]}
        found.append(described(kind, n, measured) | {"scipy": None, "ours_is_times_faster": None})
    return found


def described(kind: str, n: int, measured: dict[str, list[Found]]) -> Found:
    """What holds of a row with and without the other tool."""
    first = measured["ours"][0]
    return {
        "dictionaries": kind, "n": n, "ours": summary(measured["ours"]) | {"exact": first["exact"], "bound": first["bound"]},
        "product_seconds": statistics.median(each["seconds"] for each in measured["product"]),
    }  # fmt: skip


def summary(rounds: list[Found]) -> Found:
    """One tool: median and range of the time, the most memory, the total."""
    seconds = [each["seconds"] for each in rounds]
    return {
        "seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds), "peak_mib": max(each["peak_mib"] for each in rounds),
        "total": rounds[0]["total"],
    }  # fmt: skip


def check_same(kind: str, n: int, ours: float, theirs: float) -> None:
    """Refuse to compare times of different results."""
    if abs(ours - theirs) > TOLERANCE * abs(theirs):
        raise SystemExit(f"{n} latents, {kind}: expected the total {theirs:.9g} of linear_sum_assignment (within {TOLERANCE:.0e}), found {ours:.9g}")


def rendered(found: Found) -> str:
    """What a person reads."""
    about, rates = found["machine"], found["yardsticks"]
    lines = [
        f"{found['date']}: {about['cpu']}, {about['cores']} cores ({', '.join(about['bfloat16']) or 'no bfloat16 instructions'}), {about['memory_gib']} GiB; "
        f"{found['threads']} thread(s); load before {about['load_before'][0]}",
        f"two dictionaries of unit rows in {found['d_model']} dimensions, median of {found['rounds']} rounds",
        "",
        f"{'dictionaries':12}{'latents':>9}{'ours s':>9}{'(range)':>14}{'scipy s':>9}{'(range)':>14}{'ours is':>9}{'product s':>11}"
        f"{'peak MiB: ours':>16}{'scipy':>8}{'total of cosines':>18}{'proven':>8}",
    ]
    lines += [_line(row) for row in found["rows"]]
    lines += [
        f"yardsticks: matrix product float32 {rates['float32_gflops']:.0f}, bfloat16 {rates['bfloat16_gflops']:.0f} GFLOP/s, copy {rates['copy_gb_per_second']:.1f} GB/s",
        "",
        "'ours is' is the median of the ratios within a round. What each did:",
    ]
    return "\n".join([*lines, *(f"  {name}: {condition}" for name, condition in found["conditions"].items())])


def _line(row: dict[str, Any]) -> str:
    """One line of the table."""
    ours, scipy = row["ours"], row["scipy"]

    def time(tool: Found | None) -> str:
        return f"{tool['seconds']:>9.2f}{tool['fastest']:>8.2f}-{tool['slowest']:.2f}" if tool else ""

    faster = f"{row['ours_is_times_faster']:.2f}x" if scipy else ""
    theirs = f"{scipy['peak_mib']:,.0f}" if scipy else ""
    proven = "yes" if ours["exact"] else f"+{ours['bound']:.2g}"
    return (
        f"{row['dictionaries']:12}{row['n']:>9,}{time(ours):<23}{time(scipy):<23}{faster:>9}{row['product_seconds']:>11.2f}"
        f"{ours['peak_mib']:>16,.0f}{theirs:>8}{ours['total']:>18.4f}{proven:>8}"
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__, "for the workers' files")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="latents of both dictionaries")
    parser.add_argument("--large", action="store_true", help=f"also ours alone at {LARGE:,} latents")
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of both tools; 1 is the primary figure")
    parser.add_argument("--quick", action="store_true", help="few latents, one round: to see whether everything works")
    arguments = parser.parse_args()
    arguments.large_size = LARGE
    if arguments.quick:
        arguments.sizes, arguments.rounds, arguments.d_model, arguments.large_size = [1_100], 1, 64, 1_200
    return arguments


if __name__ == "__main__":
    main()
