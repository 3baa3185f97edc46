"""The memory of building and of reading a corpus hardly grows with its token budget: by some bytes per document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import measured_build
import pytest
from measured_build import lines_of, stored_of


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_four_times_the_tokens_take_hardly_more_memory(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    measured = []
    for tokens in (1_500_000, 6_000_000):
        folder = tmp_path / str(tokens)
        folder.mkdir()
        ended = subprocess.run([sys.executable, measured_build.__file__, str(folder), str(tokens)], env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        measured.append(json.loads(ended.stdout))
    small, large = measured
    # 6 million tokens of 20,000 documents are 78 megabytes of tensors and 6 of text, far more than the tolerance
    # (63 megabytes more than the small one's, half of its peak); on a busy machine the peak itself moves by a tenth.
    assert large["building"] < 1.2 * small["building"], measured
    assert large["reading"] < 1.2 * small["reading"], measured


@pytest.mark.parametrize(("source_of", "residue"), [(lines_of, 54), (stored_of, 70)])
def test_a_source_keeps_tens_of_bytes_of_a_document_it_has_read(tmp_path, source_of, residue):
    read = {}
    for tokens in (2_000_000, 8_000_000):
        folder = tmp_path / str(tokens)
        folder.mkdir()
        source = source_of(folder, tokens)
        tracemalloc.start()
        documents = sum(1 for _ in source.documents(0))
        read[documents] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    (few, small), (many, large) = read.items()
    assert many > 3.9 * few
    # a Python set of the hashes takes 107 bytes a document, a dictionary of them in hexadecimal some 200
    assert (large - small) / (many - few) < residue, read
