"""Tables of the training benchmarks in Markdown, from the objects that the programs write."""

from __future__ import annotations

from typing import Any


def rendered(found: dict[str, Any]) -> str:
    """The whole result of ``train.py``, as it stands in the documentation and on the terminal."""
    parts = [heading(found), main_table(found["rows"]), peers_table(found["rows"])]
    if "arms" in found:
        parts.append(arms_line(found["arms"]))
    parts.append("What each did:\n\n" + "\n".join(f"- {name}: {condition}." for name, condition in found["conditions"].items()))
    return "\n\n".join(part for part in parts if part)


def heading(found: dict[str, Any]) -> str:
    """Machine, date, versions and the rates of the machine."""
    about = found["machine"]
    versions: dict[str, str] = {}
    for row in found["rows"].values():
        for tool in (row.get("ours", {}), *row.get("peers", {}).values()):
            versions |= tool.get("versions", {})
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    rates = [row["yardsticks"] for row in found["rows"].values() if row.get("yardsticks")]
    line = (
        f"{found['date']}, {about['cpu']}, {about['cores']} cores ({', '.join(about['bfloat16']) or 'no bfloat16 instructions'}), {about['memory_gib']} GiB, "
        f"{found['threads']} thread(s), median of {found['rounds']} rounds, load {about['load_before'][0]} before and {about['load_after'][0]} after; {listed}."
    )
    if rates:
        spans = {name: (min(each[name] for each in rates), max(each[name] for each in rates)) for name in rates[0]}
        line += (
            f" Yardsticks in the same run: matrix product {_span(spans['float32_gflops'])} GFLOP/s in float32, {_span(spans['bfloat16_gflops'])} in bfloat16, "
            f"copy {_span(spans['copy_gb_per_second'])} GB/s."
        )
    return line


def main_table(rows: dict[str, Any]) -> str:
    """One line per row: ours, the best peer, the limit, memory."""
    lines = [
        "| row | k or L0 | ours, activations/s (range) | plain torch | numba | best peer in float32, activations/s | **ours is** "
        "| best peer in any precision | ours is | of the float32 limit | of the bfloat16 limit | peak MiB, ours (best peer) | losses |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "not_measured" in row:
            lines.append(f"| {name} | {row['row']['sparsity']} | not measured: {row['not_measured']} |" + " |" * 10)
            continue
        ours, best = row["ours"], row["peers"][row["best_peer"]] if row["best_peer"] else None
        variants = [row["ours_by_kernels"].get(f"ours, {kernels}", {}).get("tokens_per_second") for kernels in ("plain torch", "numba")]
        limit = row["fraction_of_limit"]
        lines.append(
            f"| {name} | {row['row']['sparsity']} | {ours['tokens_per_second']:,.0f} ({ours['slowest']:,.0f}–{ours['fastest']:,.0f}) | "
            + " | ".join(f"{rate:,.0f}" if rate else "–" for rate in variants)
            + _best(row, "_float32_peer", "**")
            + _best(row, "_peer", "")
            + f" | {limit['float32']:.0%} | {limit['bfloat16']:.0%} | {_peak(ours):,.0f}"
            + (f" ({_peak(best):,.0f})" if best else "")
            + f" | {'agree' if row['losses_agree'] else '**differ**'} |"
        )
    return "\n".join(lines)


def peers_table(rows: dict[str, Any]) -> str:
    """Every peer of every row: its rate, how many times faster ours is, and its loss beside ours."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row.get("peers", {})))
    if not names:
        return ""
    lines = [
        "Each peer: activations/s, how many times faster ours is (median of ratios within a round), and, on the small problem of the comparison, "
        "squared error over the variance before and after the steps, and L0.",
        "",
        "| row | ours | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name, row in rows.items():
        if "not_measured" in row:
            continue
        cells = [_peer_cell(row["peers"].get(peer)) for peer in names]
        lines.append(f"| {name} | {_loss(row['ours'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arms_line(arms: dict[str, Any]) -> str:
    """Several arms on one stream."""
    row = arms["row"]
    return (
        f"{arms['arms']} arms ({row['architecture']} {row['d_in']}×{row['d_sae']}, batch {row['batch']}) on one stream, on {arms['threads']} threads, take "
        f"**{arms['together_over_apart']:.2f}** of the time of the same arms one after the other "
        f"({arms['together_tokens_per_second']:,.0f} against {arms['apart_tokens_per_second']:,.0f} activations/s, each counted once per arm; "
        f"peak {arms['together_peak_mib']:,.0f} against {arms['apart_peak_mib']:,.0f} MiB)."
    )


def _peer_cell(peer: dict[str, Any] | None) -> str:
    if peer is None:
        return "–"
    if "missing" in peer:
        return "not built"
    mark = "" if peer["losses_agree"] else " **differs**"
    return f"{peer['tokens_per_second']:,.0f}, {peer['ours_is_times_faster']:.1f}×, {_loss(peer)}{mark}"


def _loss(tool: dict[str, Any]) -> str:
    first, last = tool["losses"][0], tool["losses"][-1]
    return f"{first['nmse']:.3f} → {last['nmse']:.3f} at {last['l0']:.0f}"


def _best(row: dict[str, Any], which: str, emphasis: str) -> str:
    """Two cells: the fastest peer of a kind, and how many times faster ours is."""
    name = row[f"best{which}"]
    if name is None:
        return " | – | –"
    ratio = row[f"ratio_to_best{which}"]
    return f" | {name}, {row['peers'][name]['tokens_per_second']:,.0f} | {emphasis}{ratio:.1f}×{emphasis}"


def _peak(tool: dict[str, Any]) -> float:
    return tool.get("device_peak_mib", tool["peak_mib"])


def _span(ends: tuple[float, float]) -> str:
    low, high = (f"{end:,.0f}" for end in ends)
    return low if low == high else f"{low}–{high}"
