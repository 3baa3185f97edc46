"""Text of others inside our Markdown: names, descriptions and notes stay what they are, whatever characters they hold."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")

_LIST = re.compile(r"^(\d*)([-+.)])(?=\W|$)")
"""What begins an item of a list, or a rule, at the start of a line; a signed number does not."""


def escape(text: str) -> str:
    """Text that no Markdown reader takes for markup, on one line."""
    line = _LIST.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", " ".join(text.split())))
    # & first: otherwise a text that spells &lt; would be read as <.
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
