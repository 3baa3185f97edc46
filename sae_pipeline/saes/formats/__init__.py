"""Formats of other libraries: SAEs are read from and written to SAELens, dictionary_learning and sparsify folders.

One module per format on the interface of :class:`~sae_pipeline.saes.formats.base.Format`; ``FORMATS`` lists them by name.
"""

from __future__ import annotations

from pathlib import Path

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.formats.base import Format
from sae_pipeline.saes.formats.dictionary_learning import DictionaryLearning
from sae_pipeline.saes.formats.saelens import SAELens
from sae_pipeline.saes.formats.sparsify import Sparsify

NATIVE = SAELens()
"""The format that SAEs are stored in."""

FORMATS: dict[str, Format] = {form.name: form for form in (NATIVE, DictionaryLearning(), Sparsify())}


def recognised(folder: Path) -> Format:
    """The format of an SAE folder.

    Raises:
        BadInput: none has its files there, or more than one.
    """
    fitting = [form for form in FORMATS.values() if form.recognises(folder)]
    if len(fitting) == 1:
        return fitting[0]
    known = "; ".join(f"{' and '.join(form.files)} of {form.library}" for form in FORMATS.values())
    if fitting:
        raise BadInput(f"{folder}: expected one SAE, found {' and '.join(form.library for form in fitting)} files together; keep one of them")
    raise BadInput(f"{folder}: expected an SAE ({known}), found {_contents(folder)}; give the folder that holds these files")


def _contents(folder: Path, shown: int = 6) -> str:
    """What lies in a folder, in a few words."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    return (", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")) or "nothing"
