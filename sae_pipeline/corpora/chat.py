"""Conversations as text: finding the turns in a record, and writing them out by a template.

Data sets keep turns in half a dozen shapes; all of them become the same list of :class:`Turn`. How turns are written
matters to what an SAE sees: the tokenizer's own chat template gives the text the model was tuned on, with its control
tokens; the named templates (``plain``, ``chatml``, ``alpaca``) are ordinary characters that any model can read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sae_pipeline.errors import SourceError

if TYPE_CHECKING:
    from sae_pipeline.corpora.tokenization import TextTokenizer

TEMPLATES_VERSION = 1
"""Raised whenever a named template would write the same turns differently."""

Role = Literal["system", "user", "assistant", "tool"]

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
    "tool": "tool", "function": "tool", "function_call": "assistant", "observation": "tool",
}  # fmt: skip
"""What data sets call the speakers."""


TURN_COLUMNS = (("messages",), ("conversations",), ("conversation",), ("prompt", "completion"), ("instruction", "output"))
"""Columns in which data sets keep turns, in the order in which they are looked for."""


class Turn(NamedTuple):
    """What one speaker says; ``input`` is the material that an instruction comes with, where the data keep it apart."""

    role: Role
    content: str
    input: str = ""


def turns_of(record: Mapping[str, Any]) -> list[Turn]:
    """The turns of a record, from the first of these columns that it has and that is neither null nor an empty list.

    ``messages``, ``conversations`` or ``conversation`` (a list of records with ``role`` or ``from`` and ``content`` or
    ``value``; or a list of texts, by user and assistant in turn), then ``prompt`` and ``completion`` (texts or lists
    of records), then ``instruction``, ``input`` and ``output``. Where several are needed, none of them may be null or an
    empty list. A list of records may also be kept by column. Empty when no column holds a turn.

    Raises:
        ValueError: the column holds something else; the message reads 'expected ..., found ...'.
    """
    columns = next((names for names in TURN_COLUMNS if all(_holds_turns(record.get(name)) for name in names)), ())
    if len(columns) == 1:
        return _listed(record[columns[0]], columns[0])
    if "prompt" in columns:
        return [*_side(record["prompt"], "user", "prompt"), *_side(record["completion"], "assistant", "completion")]
    if "instruction" in columns:
        asked = Turn("user", _content(record["instruction"], "instruction"), _content(record.get("input"), "input"))
        return [asked, Turn("assistant", _content(record["output"], "output"))]
    return []


def _holds_turns(value: Any) -> bool:
    """Whether a column is neither null nor an empty list; a list of records may be kept by column."""
    parts = list(value.values()) if isinstance(value, Mapping) and value else [value]
    return value is not None and not all(isinstance(part, Sequence) and not isinstance(part, (str, bytes)) and not part for part in parts)


def _side(value: Any, role: Role, column: str) -> list[Turn]:
    return [Turn(role, value)] if isinstance(value, str) else _listed(value, column)


def _listed(value: Any, column: str) -> list[Turn]:
    if isinstance(value, Mapping) and value and all(isinstance(part, Sequence) and not isinstance(part, str) for part in value.values()):
        # a sequence of records kept by column, as older versions of the datasets library give it
        lengths = {name: len(part) for name, part in value.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} of '{name}'" for name, length in lengths.items())
            raise ValueError(f"expected as many values in each column of the field '{column}', found {found}")
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"expected a list of turns in the field '{column}', found {type(value).__name__}")
    if all(isinstance(turn, str) for turn in value):
        return [Turn("assistant" if number % 2 else "user", content) for number, content in enumerate(value)]
    return [_turn(turn, f"{column}[{number}]") for number, turn in enumerate(value)]


def _turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise ValueError(f"expected a record with role and content in {where}, found {type(turn).__name__}")
    speaker = turn.get("role", turn.get("from"))
    if "content" not in turn and "value" not in turn:
        raise ValueError(f"expected 'content' or 'value' in {where}, found the fields {', '.join(map(str, turn)) or 'none'}")
    role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if role is None:
        raise ValueError(f"expected a role among {', '.join(ROLES)} in {where}, found {speaker!r:.60}")
    return Turn(role, _content(turn["content"] if "content" in turn else turn["value"], where))


def _content(value: Any, where: str) -> str:
    """Text of a turn: a text, null (a turn of tool calls alone), or a list of parts of which the texts are taken."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "\n".join(texts)
    raise ValueError(f"expected text in {where}, found {type(value).__name__}")


class Writing:
    """A template, chosen: how turns become text.

    Args:
        template: ``tokenizer``, ``plain``, ``chatml``, ``alpaca``, or ``auto``: the tokenizer's when it has one, else plain.
        tokenizer: None where there is none yet (the bundled subject's is trained on this very text).

    Attributes:
        control_tokens: whether the text holds control tokens that are meant as such.

    Raises:
        SourceError: ``tokenizer`` is asked for and there is no chat template.
    """

    def __init__(self, template: str, tokenizer: TextTokenizer | None) -> None:
        available = tokenizer is not None and tokenizer.chat_template is not None
        if template == "tokenizer" and not available:
            found = "no tokenizer before the subject is trained" if tokenizer is None else "a tokenizer without one"
            raise SourceError(
                f"chat.template: expected the subject's tokenizer to have a chat template, found {found}; choose plain, chatml or alpaca"
            )
        self.name = ("tokenizer" if available else "plain") if template == "auto" else template
        self.control_tokens = self.name == "tokenizer"
        self._tokenizer = tokenizer if self.control_tokens else None

    @property
    def identity(self) -> list[str | int]:
        """What decides the text of given turns: the named template and its version, or the tokenizer's hash, which covers its template."""
        return [self.name, TEMPLATES_VERSION, self._tokenizer.hash if self._tokenizer is not None else ""]

    def spells_control_tokens(self, turns: Iterable[Turn]) -> bool:
        """Whether a speaker's own words hold the name of a special token, which would be taken for the token itself."""
        if self._tokenizer is None:
            return False
        return any(token in turn.content or token in turn.input for turn in turns for token in self._tokenizer.special_tokens)

    def text(self, turns: Sequence[Turn]) -> str:
        """The conversation as one text; the opening token is left to packing.

        Raises:
            ValueError: the tokenizer's template refuses these turns (some take no system turn, or want speakers to alternate).
        """
        if self._tokenizer is not None:
            return self._tokenizer.render([{"role": turn.role, "content": _joined(turn)} for turn in turns])
        if self.name == "alpaca":
            return _alpaca(turns)
        if self.name == "chatml":
            return "".join(f"<|im_start|>{turn.role}\n{_joined(turn)}<|im_end|>\n" for turn in turns)
        return "\n\n".join(f"{turn.role.capitalize()}: {_joined(turn)}" for turn in turns)


def _joined(turn: Turn) -> str:
    return "\n\n".join(part for part in (turn.content, turn.input) if part.strip())


def _alpaca(turns: Sequence[Turn]) -> str:
    """The prompt of Stanford Alpaca (Taori et al. 2023); later turns repeat its headings, and a system turn takes the place of its opening."""
    task = "Below is an instruction that describes a task"
    context = ", paired with an input that provides further context" if any(turn.input.strip() for turn in turns) else ""
    parts = [] if turns[0].role == "system" else [f"{task}{context}. Write a response that appropriately completes the request."]
    headings = {"user": "### Instruction:\n", "assistant": "### Response:\n", "tool": "### Input:\n", "system": ""}
    for turn in turns:
        if turn.content.strip():
            parts.append(headings[turn.role] + turn.content)
        if turn.input.strip():
            parts.append(f"### Input:\n{turn.input}")
    return "\n\n".join(parts)
