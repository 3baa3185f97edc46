"""Where the Hugging Face hub is."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from sae_pipeline.errors import BadInput


def hub_endpoint() -> str | None:
    """The address in HF_ENDPOINT; None where the environment names none.

    Raises:
        BadInput: it holds a name or password. The libraries quote addresses in what they raise and log.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or None
    if endpoint is not None and "@" in urlsplit(endpoint).netloc:
        raise BadInput(
            "HF_ENDPOINT: expected the hub's address alone, found one with a name or password in it, which would end in logs; "
            "remove them, and give the hub's token in HF_TOKEN"
        )
    return endpoint
