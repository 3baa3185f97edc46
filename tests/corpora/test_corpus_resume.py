"""A build goes on from its last finished block to the same bytes, and builds on nothing that is damaged or another recipe's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import killed_build
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_mixes import EVERYTHING, SOURCES, LetterTokenizer, ToyTexts, recipe

from sae_pipeline.corpora import mixing, writing
from sae_pipeline.corpora.documents import Document
from sae_pipeline.errors import SourceError

FILES = ("tokens.safetensors", "documents.parquet")
BLOCK_TOKENS = 400


class Stopped(Exception):
    """Any failure in the middle of a build."""


def build(folder: Path, **changes: Any) -> dict[str, Any]:
    with patch.object(mixing, "BLOCK_TOKENS", BLOCK_TOKENS):
        return mixing.build_corpus(folder, **recipe(**changes))


def build_until(folder: Path, writes: int, **changes: Any) -> bool:
    """Build until the disk has been flushed ``writes`` times; whether it came to its end before that."""
    flush, done = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > writes:
            raise Stopped
        flush(descriptor)

    with patch.object(os, "fsync", failing):
        try:
            build(folder, **changes)
        except Stopped:
            return False
    return True


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Any], list[bytes]]:
    """The summary and the bytes of a build that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return build(folder), bytes_of(folder)


# ------------------------------------------------------------------------------------------------ interruptions


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 25), max_size=6),
    st.booleans(),
    st.integers(1, 1400),
    st.integers(2, 40),
    st.sampled_from([7, 60, 500]),
    st.integers(0, 2),
)
def test_a_build_interrupted_anywhere_gives_the_bytes_of_one_that_never_was(stops, repeat, tokens, context_length, block_tokens, seed):
    few = [Document(f"few {n} " * (n % 5), f"{n}", ids=(n,) * (n % 4) if n % 3 == 0 else None, control_tokens=n % 2 == 0) for n in range(60)]
    study = {
        "sources": {"few": ToyTexts(few, left_out=7), "many": ToyTexts.named("many", 300)}, "shares": {"few": 0.3, "many": 0.7}, "tokens": tokens,
        "context_length": context_length, "seed": seed, "repeat": repeat, "side": EVERYTHING,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second, patch(f"{__name__}.BLOCK_TOKENS", block_tokens):
        undisturbed, interrupted = Path(first), Path(second)
        expected: dict[str, Any] | str
        try:
            expected = build(undisturbed, **study)
        except SourceError as error:
            expected = str(error)
        try:
            for writes in stops:
                build_until(interrupted, writes, **study)
            found: dict[str, Any] | str = build(interrupted, **study)
        except SourceError as error:
            found = str(error)
        assert found == expected
        if isinstance(expected, dict):
            assert bytes_of(interrupted) == bytes_of(undisturbed)
            assert {path.name for path in interrupted.iterdir()} == {*FILES, ".journal.json"}


def test_a_build_killed_again_and_again_comes_to_the_same_bytes(tmp_path, whole):
    """Each process dies by SIGKILL after nine flushes: in the midst of a tensor, a part, a journal, or the last table."""
    command = [sys.executable, str(Path(killed_build.__file__)), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    deaths = 0
    while (ended := subprocess.run([*command, "9"], env=environment, capture_output=True, text=True)).returncode == -signal.SIGKILL:
        deaths += 1
        assert deaths < 10
    assert ended.returncode == 0, ended.stderr
    assert deaths > 1
    assert bytes_of(tmp_path) == whole[1]


def test_what_was_packed_is_not_tokenised_again(tmp_path):
    first, second = LetterTokenizer(), LetterTokenizer()
    study = {"tokens": 12_000, "shares": {"alpha": 1.0}}
    assert not build_until(tmp_path, 140, tokenizer=first, **study)
    build(tmp_path, tokenizer=second, **study)
    assert first.encoded > 250
    assert second.encoded <= 256  # one batch


def test_a_finished_build_is_not_done_again(tmp_path, whole):
    build(tmp_path)
    unread = {name: ToyTexts(source._documents) for name, source in recipe()["sources"].items()}
    assert build(tmp_path, sources=unread) == whole[0]
    assert [source.read for source in unread.values()] == [0, 0, 0]


# ------------------------------------------------------------------------------------------------ leftovers


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of a tensor": lambda folder: flip(folder / FILES[0], 0.2),
    "a bit of the header": lambda folder: flip(folder / FILES[0], 0.0),
    "a tensor file cut short": lambda folder: os.truncate(folder / FILES[0], 3000),
    "no tensor file": lambda folder: (folder / FILES[0]).unlink(),
    "a bit of a part": lambda folder: flip(folder / writing.PART.format(1), 0.5),
    "no part": lambda folder: (folder / writing.PART.format(0)).unlink(),
    "a bit of the journal": lambda folder: flip(folder / writing.JOURNAL, 0.5),
    "half a journal": lambda folder: os.truncate(folder / writing.JOURNAL, 200),
    "no journal": lambda folder: (folder / writing.JOURNAL).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_leftovers_are_thrown_away(damage, tmp_path, whole):
    assert not build_until(tmp_path, 13)
    DAMAGE[damage](tmp_path)
    assert build(tmp_path) == whole[0]
    assert bytes_of(tmp_path) == whole[1]


@pytest.mark.parametrize("name", FILES)
def test_a_finished_build_whose_file_was_damaged_is_done_again(name, tmp_path, whole):
    build(tmp_path)
    flip(tmp_path / name, 0.6)
    assert build(tmp_path) == whole[0]
    assert bytes_of(tmp_path) == whole[1]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"tokens": 3200},
        {"context_length": 8},
        {"side": EVERYTHING},
        {"repeat": True},
        {"shares": {"alpha": 0.4, "beta": 0.6}},
        {"tokenizer": LetterTokenizer(hash="another")},
        {"sources": recipe()["sources"] | {"beta": ToyTexts.named("other", 400)}},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("writes", [13, 10_000], ids=["unfinished", "finished"])
def test_leftovers_of_another_recipe_are_thrown_away(change, writes, tmp_path, whole):
    build_until(tmp_path, writes, **change)
    assert build(tmp_path) == whole[0]
    assert bytes_of(tmp_path) == whole[1]


def test_files_that_are_not_of_a_build_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    build(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_room_for_the_whole_corpus_is_claimed_before_anything_is_read(tmp_path):
    sources = {"alpha": ToyTexts.named("alpha", 400)}
    with patch.object(os, "posix_fallocate", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError, match="No space"):
        build(tmp_path, sources=sources, shares={"alpha": 1.0})
    assert sources["alpha"].read == 0


def test_the_tensors_are_laid_out_as_safetensors_itself_lays_them_out(whole, tmp_path):
    from safetensors.numpy import load, save

    tensors = load(whole[1][0])
    assert {name: tensor.tobytes() for name, tensor in load(save(tensors)).items()} == {name: tensor.tobytes() for name, tensor in tensors.items()}
    assert len(save(tensors)) == len(whole[1][0])
    assert np.frombuffer(whole[1][0][:8], "<u8")[0] % 8 == 0


# ------------------------------------------------------------------------------------------------ text that changes


class Edited(ToyTexts):
    """Texts that someone rewrites while the tenth is read."""

    def documents(self, seed: int) -> Iterator[Document]:
        for place, document in enumerate(super().documents(seed)):
            if place == 9:
                self._documents = [Document(each.text.upper(), each.key) for each in self._documents]
            yield document


def test_no_block_of_text_that_changed_is_left_to_build_upon(tmp_path, whole):
    with pytest.raises(SourceError, match=r"source alpha: .* changed while it was read; run again"):
        build(tmp_path, sources=SOURCES | {"alpha": Edited.named("alpha", 400)})
    build(tmp_path)  # the original text is back, under the name that it had
    assert bytes_of(tmp_path) == whole[1]
