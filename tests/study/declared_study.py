"""A study as a file declares it, for tests of single sections: two sources, two mixes, sets of which the first is not in-sample."""

from __future__ import annotations

from typing import Any

from sae_pipeline.study import Study


def declared(**sections: Any) -> Study:
    """The study with further sections; one that is None is left out."""
    data: dict[str, Any] = {
        "name": "toy",
        "subject": {"model": "bundled"},
        "sources": {"prose": {"kind": "installed_docs"}, "code": {"kind": "installed_code"}},
        "mixes": {"EQ": {"prose": 0.5, "code": 0.5}, "PROSE": {"prose": 1.0}},
        "held_out": {
            "code": {"shares": {"code": 1.0}, "kind": "domain_shift"},
            "prose": {"shares": {"prose": 1.0}, "kind": "in_sample"},
            "both": {"shares": {"prose": 0.5, "code": 0.5}, "kind": "in_sample"},
        },
        "activations": {"layers": [1, 3], "tokens": 200_000},
        "saes": {"expansions": [4, 8], "arms": [{"architecture": "topk", "k": 16}]},
    }
    return Study.model_validate(data | {name: section for name, section in sections.items() if section is not None})
