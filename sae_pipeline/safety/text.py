"""Text that came from elsewhere, made fit to be shown: it moves no cursor, forges no line, and gives away no secret.

Errors go through it wherever they are made (:class:`~sae_pipeline.errors.SaePipelineError`), so a message is clean on the terminal, in
Dagster's event log and in a report alike.
"""

from __future__ import annotations

import os
import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that reorder what is shown, and halves of characters, which no terminal can print."""

_SECRET_NAMES = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY|ACCESS_KEY_ID|PRIVATE_KEY)$")
"""How the names of environment variables end whose value nobody else may see."""

PASSWORD = re.compile(r"(?<=://)[^/\s:]*:\S*@")
"""User name and password of an address. A password may hold slashes and quotes: behind a name and a colon, all up to the last @ of the word."""

SHORTEST_SECRET = 8
"""Characters below which the value of such a variable is a word that may stand in any message."""


def plain(text: str) -> str:
    """The text with control characters written out, as ``\\x1b``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_secrets(text: str) -> str:
    """A URL, or a message that holds some, without user names, passwords and query strings, and without secrets of the environment."""
    # The longest first: of two that begin alike the shorter one would leave the other's end.
    for name, value in sorted(os.environ.items(), key=lambda variable: -len(variable[1])):
        if len(value) >= SHORTEST_SECRET and _SECRET_NAMES.search(name.upper()):
            text = text.replace(value, f"<{name}>")
    # The password first: it may hold a question mark.
    without_names = re.sub(r"(?<=://)[^/\s'\"]*@", "", PASSWORD.sub("", text))
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", without_names)
