"""What every benchmark does beside measuring: its common options, the other tools' environments, progress, and the table."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from side_by_side import REPOSITORY, Peer

Found = dict[str, Any]
"""What a benchmark measured, as it goes into a file of results/."""


def options(documentation: str | None, scratch: str, peers: Sequence[Peer] = ()) -> argparse.ArgumentParser:
    """A command line with the options that all benchmarks have.

    Args:
        documentation: of the program; its first line is the description.
        scratch: what ``--scratch`` is for.
        peers: the tools that ``--peers`` chooses from; without any there is neither that option nor ``--build-peers``.
    """
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0] if documentation else None)
    if peers:
        names = [peer.name for peer in peers]
        parser.add_argument("--peers", nargs="*", choices=names, default=names)
        parser.add_argument("--build-peers", action="store_true", help="build the peers' environments where they are missing")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--output", type=Path, help="write the same object to a file")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the table of such a file and measure nothing")
    parser.add_argument("--scratch", type=Path, default=REPOSITORY / "build" / "benchmarks", help=scratch)
    return parser


def run(arguments: argparse.Namespace, measure: Callable[[], Found], rendered: Callable[[Found], str], peers: Sequence[Peer] = ()) -> None:
    """Print the table of a file, or build the peers that were asked for, measure, print, and write where it was asked for."""
    if arguments.render:
        print(rendered(_read(arguments.render)))
        return
    if peers and arguments.build_peers:
        for peer in peers:
            if peer.name in arguments.peers:
                say(f"building {peer.environment} for {peer.name}; minutes the first time")
                peer.build()
    found = measure()
    print(rendered(found))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(found))


@contextmanager
def empty_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def _read(path: Path) -> Found:
    """The object that a benchmark wrote with ``--output``; ends the program with a sentence where there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"--render: expected a file that --output wrote, found none that can be read at {path} ({error}); measure first") from None
