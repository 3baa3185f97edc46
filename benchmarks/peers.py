"""The tools that this project is compared with, each at one version in an environment of its own."""

from __future__ import annotations

from side_by_side import Peer

SAELENS = Peer("sae-lens", ".venv-saelens", "SAELENS_PYTHON", "requirements-saelens.txt")
DICTIONARY_LEARNING = Peer(
    "dictionary_learning", ".venv-dictionary-learning", "DICTIONARY_LEARNING_PYTHON", "requirements-dictionary-learning.txt",
    unwanted=("torchvision",),  # nnsight declares it and never imports it; an unmatched build breaks transformers' imports
)  # fmt: skip
SPARSIFY = Peer("sparsify", ".venv-sparsify", "SPARSIFY_PYTHON", "requirements-sparsify.txt")

TRAINERS = (SAELENS, DICTIONARY_LEARNING, SPARSIFY)
"""The tools that train SAEs."""
