"""Fingerprints, artifacts with manifests, locks, the home folder, and the store that several machines share."""

from sae_pipeline.store.artifacts import Artifact, Draft, Store
from sae_pipeline.store.fingerprints import digest, file_sha256, files_digest, strings_in
from sae_pipeline.store.home import Home
from sae_pipeline.store.locks import exclusive, is_held, lease
from sae_pipeline.store.writing import flush, storage_errors, write_atomically, write_json

__all__ = [
    "Artifact",
    "Draft",
    "Home",
    "Store",
    "digest",
    "exclusive",
    "file_sha256",
    "files_digest",
    "flush",
    "is_held",
    "lease",
    "storage_errors",
    "strings_in",
    "write_atomically",
    "write_json",
]
