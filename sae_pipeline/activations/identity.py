"""Which model this is, told without loading it: the part of a subject that enters fingerprints.

Imports no torch, because Dagster asks for it while it loads the definitions.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_pipeline.errors import SubjectError
from sae_pipeline.safety.hub_address import hub_endpoint
from sae_pipeline.store.fingerprints import digest, file_sha256

CHECKPOINT_FILES = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*chat_template*",
    "*.safetensors*",
    "*.bin*",
    "*.model",
    "*.py",
)
"""What decides a checkpoint's behaviour; model cards, licences and training logs do not."""

SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""A checkpoint's weights, or the list of the files that hold their parts."""

COMMIT = re.compile(r"[0-9a-f]{40}")


def subject_identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """What makes activations of this subject comparable: its weights and tokenizer, and the backend that runs it.

    A local folder is identified by the hash of its files, so that a copy elsewhere is the same subject; a hub id by
    the commit its revision points at. A full commit hash needs no network.

    Raises:
        SubjectError: no such folder or hub model, or the hub cannot be reached and has not been read before.
    """
    backend = {"backend": "transformer_lens.TransformerBridge", "backend_version": version("transformer-lens"), "weights": "raw", "gelu": "fused"}
    if (folder := local_checkpoint(model)) is not None:
        return {"kind": "local", "content": checkpoint_digest(folder), **backend}
    return {"kind": "hub", "model": model, "commit": resolve_commit(model, revision), **backend}


def local_checkpoint(model: str) -> Path | None:
    """The folder that ``model`` names, or None when it is a hub id.

    Raises:
        SubjectError: it is written as a path and no checkpoint lies there.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            found = "a file" if folder.is_file() else "nothing"
            raise SubjectError(f"{model}: expected the folder of a Hugging Face checkpoint, found {found}; correct subject.model")
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "model_type" not in config:
            raise ValueError("no model_type")
    except FileNotFoundError:
        raise SubjectError(
            f"{folder}: expected a Hugging Face checkpoint with a config.json, found a folder without one; correct subject.model"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SubjectError(
            f"{folder / 'config.json'}: expected the configuration of a model, found a file that cannot be used ({error}); save the model again"
        ) from None
    _check_shards(folder)
    return folder


def untrusted(model: str) -> str:
    """What to say of a checkpoint or tokenizer that transformers cannot read without running the checkpoint's own code."""
    return (
        f"{model}: expected a checkpoint that transformers can load by itself, found one that brings Python code of its own; "
        "read that code, and set subject.trust_remote_code: true to have it run"
    )


def _check_shards(folder: Path) -> None:
    """Refuse a checkpoint whose list of weight files leads out of its folder, where nobody knows them by their contents (SubjectError)."""
    for index in (folder / name for name in (SAFE_WEIGHTS[1], PICKLED_WEIGHTS[1])):
        if not index.exists():
            continue
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            odd = next((name for name in named if Path(name).name != name), None)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SubjectError(
                f"{index}: expected a list of weight files, found a file that cannot be used ({error}); save the model again"
            ) from None
        if odd is not None:
            raise SubjectError(f"{index}: expected files beside it, found '{odd}'; copy the file into the folder and save the model again")


def checkpoint_digest(folder: Path) -> str:
    """Hash of the configuration, tokenizer and weight files of a local checkpoint (names and bytes)."""
    return digest(*[(name, _sha256(str(folder / name), size, changed)) for name, size, changed in checkpoint_state(folder)])


def checkpoint_state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of the same files: enough to notice within a process that they were replaced."""
    files = {path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()}
    return tuple((path.name, (status := path.stat()).st_size, status.st_mtime_ns) for path in sorted(files))


@lru_cache(maxsize=1024)
def _sha256(path: str, size: int, changed: int) -> str:
    """Checksum of a file, computed once per process and state of the file; size and time are there to key the cache."""
    try:
        return file_sha256(Path(path))
    except OSError as error:
        raise SubjectError(f"{path}: expected a readable file of a checkpoint, found: {error.strerror}; check its permissions") from None


@lru_cache(maxsize=64)
def resolve_commit(model: str, revision: str | None) -> str:
    """The commit that a hub revision (branch, tag or commit; default branch when None) stands for.

    Falls back to the local hub cache when the network is away, so that what was read once goes on working.

    Raises:
        SubjectError: unknown model or revision, no access, or no network and nothing cached.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    named = model if revision is None else f"{model}@{revision}"
    endpoint = hub_endpoint()
    try:
        commit = HfApi(endpoint=endpoint).model_info(model, revision=revision, timeout=20).sha
    except GatedRepoError:
        raise SubjectError(
            f"{named}: expected a model that may be read, found one whose licence was not accepted; accept it on the hub and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise SubjectError(f"{named}: expected a branch, tag or commit of {model}, found none of that name; correct subject.revision") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise SubjectError(
            f"{named}: expected 'bundled', a local checkpoint folder or a hub id, found no such folder and no such model on the hub; correct subject.model (a private model needs HF_TOKEN)"
        ) from None
    except Exception as error:  # the HTTP client's own exceptions differ between hub versions
        try:
            return Path(snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=[])).name
        except Exception:
            raise SubjectError(
                f"{named}: expected to reach the Hugging Face hub, because there is no folder of that name here, found: "
                f"{type(error).__name__} ({_first_line(error)}); connect, or give subject.model the path of a local checkpoint"
            ) from None
    if commit is None:
        raise SubjectError(f"{named}: expected the hub to name a commit, found none; pin subject.revision to a commit")
    return commit


def _first_line(error: Exception) -> str:
    """The gist of a library's message, for use inside one sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else "no message"
