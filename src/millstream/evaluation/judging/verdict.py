"""What a judge said, read as a verdict: one JSON object, with or without words around it."""

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from millstream.evaluation.judging.scale import BadScoreError, Scale

_MAX_ATTEMPTS: Final = 200
_MAX_QUOTED: Final = 120
_THOUGHT: Final = "</think>"


class NoVerdictError(Exception):
    """A judge gave no verdict; the message is the reason of a missing score."""


class Verdict(msgspec.Struct, frozen=True):
    """One answer of a judge.

    Attributes:
        raw: the score on the judge's own scale.
        share: the same from 0 to 1.
        reasoning: the judge's words.
    """

    raw: float | str
    share: float
    reasoning: str


def read_verdict(said: str, scale: Scale) -> Verdict:
    """The verdict in what a judge said.

    It is the JSON object that has the scale's key. Of several that say different things none is taken: one
    of them may be a quotation of what was judged.

    Raises:
        NoVerdictError: there is none, or its score is not on the scale; quotes what was said.
    """
    text = said.rpartition(_THOUGHT)[2]
    found = [value for value in _objects(text) if scale.key in value]
    if not found:
        raise NoVerdictError(f"the judge gave no JSON object with the key {scale.key!r}: {quoted(text)}")
    scores = {json.dumps(value[scale.key], sort_keys=True) for value in found}
    if len(scores) > 1:
        raise NoVerdictError(
            f"the judge gave {len(scores)} different scores in one answer ({', '.join(sorted(scores))})"
        )
    value = found[-1]
    try:
        raw = scale.read(value[scale.key])
    except BadScoreError as error:
        raise NoVerdictError(
            f"the judge's {scale.key} {quoted(value[scale.key])} {error}; it said {quoted(text)}"
        ) from None
    reasoning = value.get("reasoning")
    return Verdict(raw, scale.share(raw), reasoning if isinstance(reasoning, str) else "")


def quoted(value: Any) -> str:
    """A value as it stands in a reason: on one line, shortened."""
    text = value if isinstance(value, str) else json.dumps(value)
    line = " ".join(text.split())
    if not line:
        return "nothing"
    return repr(line if len(line) <= _MAX_QUOTED else line[:_MAX_QUOTED] + "…")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, not those inside others."""
    decoder = json.JSONDecoder(strict=False)  # models write line breaks into texts
    place = text.find("{")
    for _ in range(_MAX_ATTEMPTS):
        if place < 0:
            return
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield value
        place = text.find("{", end)
