"""The Hugging Face hub: an SAE from a folder or a repository, and a folder to a repository with the user's own token.

The endpoint is HF_ENDPOINT and the token HF_TOKEN, both from the environment; the token is given to the hub's client and
shown nowhere.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from sae_pipeline.errors import BadInput, HubError
from sae_pipeline.reports.model_card import CARD_FILE
from sae_pipeline.saes.formats import FORMATS, recognised
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.safety.hub_address import hub_endpoint


def load_sae(path_or_hub_id: str | Path, revision: str | None = None) -> InferenceSAE:
    """An SAE of any known format from a local folder or from the hub.

    Only the files that a format consists of are downloaded; nothing is unpickled, and no file outside the SAE's folder is
    read. What comes from the hub carries ``hub_id`` and the commit, ``hub_revision``, in its metadata.

    Args:
        path_or_hub_id: a folder, or ``owner/name`` or ``owner/name/folder/in/it`` of a hub repository.
        revision: branch, tag or commit of a hub repository; None is what its main branch holds now.

    Raises:
        BadInput: there is no such folder, or no SAE that can be read in it.
        HubError: the repository or revision does not exist, may not be read, or the hub cannot be reached.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        if revision is not None:
            raise BadInput(f"{folder}: expected no revision of a local folder, found '{revision}'; leave it out, or name a hub repository")
        return InferenceSAE.load(folder)
    owner, _, rest = str(path_or_hub_id).partition("/")
    name, _, inner = rest.partition("/")
    parts = PurePosixPath(inner).parts
    # The hub's client would refuse most of these too, but as names of repositories, which is not what was meant.
    if folder.is_absolute() or str(path_or_hub_id).startswith((".", "~")) or not owner or not name or ".." in (owner, name, *parts):
        raise BadInput(
            f"{path_or_hub_id}: expected the folder of an SAE, or owner/name or owner/name/folder on the hub, found neither; correct the path"
        )
    snapshot = _snapshot(f"{owner}/{name}", "/".join(parts), revision)
    sae = InferenceSAE.load(snapshot.joinpath(*parts))
    return replace(sae, metadata=sae.metadata | {"hub_id": str(path_or_hub_id), "hub_revision": snapshot.name})


def _snapshot(repository: str, inner: str, revision: str | None) -> Path:
    """Folder of the hub's cache with the SAE files of a repository at one commit, which is its name."""
    from huggingface_hub import snapshot_download

    names = sorted({name for form in FORMATS.values() for name in (*form.files, *form.extras)})
    prefix = f"{glob.escape(inner)}/" if inner else ""
    with _hub_errors(repository, "read"):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[prefix + name for name in names], endpoint=hub_endpoint()))


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload an exported SAE as a model repository, which is made if it does not exist; returns its address.

    Only the format's files and the model card are uploaded, whatever else lies in the folder.

    Args:
        folder: as ``sae-pipeline export`` writes it.
        repository: ``owner/name``.
        private: of a new repository; one that exists stays as it is.

    Raises:
        BadInput: the folder holds no SAE, or HF_TOKEN is not set.
        HubError: the token may not write there, or the hub cannot be reached.
    """
    form = recognised(folder)
    form.read(folder)  # nobody is served by a damaged SAE on the hub
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise BadInput(
            "HF_TOKEN: expected a token of yours that may write to the hub, found none; make one at huggingface.co/settings/tokens and set it"
        )
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub_endpoint(), token=token)
    with _hub_errors(repository, "write"):
        # None lets the owner's default decide; False would ask for a public one where an organisation forbids it.
        address = api.create_repo(repository, repo_type="model", private=private or None, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            repo_type="model",
            commit_message=f"SAE in {form.library} format",
            allow_patterns=[*form.files, *form.extras, CARD_FILE],
        )
    return str(address)


@contextmanager
def _hub_errors(repository: str, deed: str) -> Iterator[None]:
    """The hub client's many exceptions as one sentence each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError:
        raise BadInput(
            f"{repository}: expected owner/name with letters, digits, '-', '_' and '.' in each, found something else; correct the name"
        ) from None
    except errors.HfHubHTTPError as error:
        raise HubError(_refusal(repository, deed, error)) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise HubError(
            f"{repository}: expected to reach the hub, found it switched off or out of reach; check the network and HF_HUB_OFFLINE"
        ) from None
    except Exception as error:
        # The bases are OSError and what the client's HTTP library raises; which one that is depends on the version.
        if not isinstance(error, errors.HfHubHTTPError.__bases__):
            raise
        endpoint = hub_endpoint() or "https://huggingface.co"
        raise HubError(
            f"{repository}: expected an answer of {endpoint}, found {type(error).__name__}; check the network, and HF_ENDPOINT if it is set"
        ) from None


def _refusal(repository: str, deed: str, error: Any) -> str:
    """Why the hub refused, for the user."""
    from huggingface_hub import errors

    status = getattr(error.response, "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository}: expected that revision, found no such branch, tag or commit; correct the revision"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository}: expected a repository that may be read, found one whose terms were not accepted; accept them on the hub and set HF_TOKEN"
        )
    if deed == "read" and (isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404)):
        return (
            f"{repository}: expected a model repository of that name, found none that may be read; correct the name, or set HF_TOKEN if it is private"
        )
    if status == 401:
        return f"{repository}: expected a valid token in HF_TOKEN, found one that the hub does not accept; make a new one"
    if status in (403, 404):
        return (
            f"{repository}: expected a token that may write there, found one that may not; use your own name as owner, or a token with write access"
        )
    return f"{repository}: expected the hub to answer, found HTTP status {status}; try again later"
