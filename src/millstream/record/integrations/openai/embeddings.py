"""Embeddings: what was embedded, and how many vectors of what size came."""

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from millstream import semconv
from millstream.record.integrations.observed import usage_from_openai
from millstream.record.integrations.openai.answers import Answer, items, read

_FLOAT_BYTES = 4


class EmbeddingsAnswer(Answer):
    """An answer of the embeddings API; the vectors are not kept."""

    operation: ClassVar[str] = "embeddings"

    @staticmethod
    def content(body: Mapping[str, Any]) -> Any:
        """The texts or token numbers as they are."""
        return body.get("input", msgspec.UNSET)

    @staticmethod
    def parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG004
        """None has an attribute."""
        return {}

    def whole(self, answer: Any) -> None:
        """Record how many vectors came and how long they are."""
        vectors = [read(each, "embedding") for each in items(read(answer, "data"))]
        size = _size(vectors[0]) if vectors else None
        self.step.answer(
            {"count": len(vectors), "dimensions": size},
            usage=usage_from_openai(read(answer, "usage")),
            model=read(answer, "model"),
        )
        self.step.know({semconv.EMBEDDINGS_COUNT: len(vectors), semconv.EMBEDDINGS_DIMENSIONS: size})

    def see(self, piece: Any) -> bool:
        """Do nothing: embeddings are not streamed."""
        return False


def _size(vector: Any) -> int | None:
    if isinstance(vector, str):
        return len(base64.b64decode(vector)) // _FLOAT_BYTES
    return len(vector) if hasattr(vector, "__len__") else None
