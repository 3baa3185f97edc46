"""What the command line shows while it works: one bar per piece of work, with rate and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sae_pipeline.progress import Track, listening
from sae_pipeline.safety.text import plain

if TYPE_CHECKING:
    from sae_pipeline.stages.chain import Chain


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[str, int], Any]]:
    """Bars on standard error; when it is not a terminal, one line per asset instead."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    if quiet:
        yield lambda asset, partitions: print(f"{asset}: {partitions} to run", file=sys.stderr, flush=True)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[int, TaskID] = {}

        def show(track: Track) -> None:
            if id(track) not in tasks:
                tasks[id(track)] = bars.add_task(track.label, total=track.total, figures="")
            figures = " ".join(f"{name} {value:.4g}" for name, value in track.figures.items())
            bars.update(tasks[id(track)], completed=track.done, figures=f"{track.unit}, {track.rate:,.0f}/s {figures}")
            if track.finished:
                bars.remove_task(tasks.pop(id(track)))

        with listening(show):
            yield lambda asset, partitions: bars.console.print(f"{asset}: {partitions} to run", markup=False)


def say(line: str) -> None:
    """A line that quotes names of somebody else's."""
    print(plain(line))


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Rows as an aligned table; floats with four digits. Brackets in a cell are brackets, and no markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        cells = (f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c] if row[c] is not None else "–") for c in columns)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    # As wide as its content: an id that is cut short cannot be used.
    Console(width=1000).print(table)


def print_chain(chain: Chain) -> None:
    """An SAE's chain, an artifact per paragraph, upstream first; the SAE itself is marked."""
    say(f"subject model: {_listed({name: value for name, value in chain.subject.items() if isinstance(value, str | int | float)})}")
    for link in (*chain.before, chain.sae, *chain.beside, *chain.after):
        say(f"\n{'→ ' if link is chain.sae else ''}{link.what} ({link.stage} {link.fingerprint}, content {link.content})")
        say(f"  made {link.created} in {link.seconds:.3g} s on {link.host} with {_listed(link.libraries)}")
        if link.made_from:
            say(f"  from {', '.join(link.made_from)}")
        for text in link.text:
            known = {"data version": text["data_version"]} | ({"commit": text["commit"]} if text["commit"] else {})
            amount = f"{text['documents']:,} documents, {text['tokens']:,} tokens"
            read_as = {name: value for name, value in text["read_as"].items() if value not in (None, [], {})}
            say(f"  {100 * text['share']:g} % {text['source']}, {_listed(known)}: {amount} ({_listed(read_as)})")


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
