"""Tables of measured figures are put into the documentation from the files that hold them."""

from __future__ import annotations

import json
from pathlib import Path


def test_documented_tables_are_replaced_in_place(tmp_path: Path) -> None:
    """Text around a table stays; running it twice changes nothing; a missing file is said to be missing."""
    from documented import filled

    found = {
        "date": "2026-01-01", "machine": {"cpu": "one"}, "arm": {"d_in": 2, "d_sae": 4, "sparsity": 1, "batch": 8, "shuffle_tokens": 16},
        "caches": [{"cache_mib": n, "tokens": n, "steps": n, "peak_mib": n, "anonymous_mib": n} for n in (1, 4)], "peak_ratio": 1.0, "anonymous_ratio": 1.0,
    }  # fmt: skip
    (tmp_path / "memory.json").write_text(json.dumps(found))
    place = "<!-- figures: python benchmarks/{} --render {} -->\nold\n<!-- end of figures -->"
    page = f"before\n{place.format('train_memory.py', 'memory.json')}\nbetween\n{place.format('recovery.py', 'recovery.json')}\nafter\n"
    once = filled(page, tmp_path)
    assert "old" not in once
    assert "TopK 2×4" in once
    assert "Not measured yet." in once
    assert once.startswith("before\n")
    assert "\nbetween\n" in once
    assert once.endswith("after\n")
    assert filled(once, tmp_path) == once
