"""SAEs that the other libraries made load here and compute the same latents and reconstructions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from libraries import PEERS, agree
from safetensors.torch import load_file

from sae_pipeline.saes.formats import FORMATS, recognised
from sae_pipeline.saes.formats.golden import check, margins
from sae_pipeline.saes.inference import InferenceSAE

pytestmark = pytest.mark.interchange

MADE = {
    "saelens": {
        "standard": "relu", "standard-plain-encoder": "relu", "standard-scaled": "relu", "topk": "topk", "topk-rescaled": "topk", "jumprelu": "jumprelu",
        "jumprelu-plain-encoder-scaled": "jumprelu", "gated": "gated", "gated-plain-encoder": "gated", "batchtopk": "jumprelu", "matryoshka": "jumprelu",
    },
    "dictionary_learning": {
        "standard": "relu", "standard-april": "relu", "gated": "gated", "jumprelu": "jumprelu", "topk": "topk", "batchtopk": "jumprelu",
        "matryoshka": "jumprelu", "new": "relu",
    },
    "sparsify": {"topk": "topk", "topk-latents": "topk", "topk-undercomplete": "topk"},
}  # fmt: skip
"""By format: the SAEs that its program makes, and the inference rule that each is here."""


@pytest.fixture(scope="module")
def made(library: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder with a library's SAEs; made once."""
    folders: dict[str, Path] = {}

    def folder(form: str) -> Path:
        if form not in folders:
            folders[form] = tmp_path_factory.mktemp(form)
            library(form, f"make_with_{form}.py", str(folders[form]))
        return folders[form]

    return folder


@pytest.mark.parametrize("form", PEERS)
def test_every_sae_that_is_made_there_is_looked_at_here(form: str, made: Callable[[str], Path]) -> None:
    assert json.loads((made(form) / "labels.json").read_text()) == list(MADE[form])


@pytest.mark.parametrize(("form", "label"), [(form, label) for form in PEERS for label in MADE[form]])
def test_an_sae_made_there_is_the_same_function_here(form: str, label: str, made: Callable[[str], Path], tmp_path: Path) -> None:
    root = made(form)
    sae, outputs = InferenceSAE.load(root / label), load_file(root / "outputs.safetensors")
    assert recognised(root / label).name == form
    assert sae.activation == MADE[form][label]
    # Half of the tokens, those on which no float32 rounding can turn a latent on or off.
    rows = margins(sae, outputs["x"]).argsort(descending=True)[:256]
    f = sae.encode(outputs["x"][rows])
    assert (f > 0).any()
    assert agree(f, outputs[f"{label}.latents"][rows])
    assert agree(sae.decode(f), outputs[f"{label}.reconstruction"][rows])
    for other in FORMATS.values():
        if other.expresses(sae):
            folder = tmp_path / other.name
            folder.mkdir()
            other.write(sae, folder)
            check(sae, other, folder)
