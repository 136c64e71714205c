"""Embedders: the keys of `embedders`, and what they make LangChain `Embeddings` of."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from millstream.workflow.llms import NIMServer, Server, parse_typed

EMBEDDER_GROUP = "millstream.embedders"


class OpenAIEmbedderConfig(Server):
    """`_type: openai`: any server that speaks the OpenAI embeddings protocol.

    Attributes:
        dimensions: of the vectors; the model's own when `None`.
        batch_size: texts in one request.
    """

    dimensions: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=2048)] = 256


class NIMEmbedderConfig(NIMServer, OpenAIEmbedderConfig):
    """`_type: nim`: the same, and tells the model which texts are questions and which are passages."""

    batch_size: Annotated[int, Field(ge=1, le=2048)] = 64


class HashConfig(BaseModel):
    """`_type: hash`: words and pieces of words counted into a vector, here and without a model.

    Attributes:
        dimensions: of the vectors; the fewer, the more words share a place.
    """

    model_config = ConfigDict(extra="forbid")

    dimensions: Annotated[int, Field(ge=8, le=65_536)] = 1024


EmbedderConfig = OpenAIEmbedderConfig | HashConfig
EMBEDDERS: Mapping[str, type[EmbedderConfig]] = {
    "hash": HashConfig,
    "nim": NIMEmbedderConfig,
    "openai": OpenAIEmbedderConfig,
}


def parse_embedder(mapping: Mapping[str, Any], where: str) -> EmbedderConfig | EntryPoint:
    """Check one entry of `embedders`.

    Returns:
        Its configuration, or the entry point of another package that makes the embedder.

    Raises:
        ConfigError: unknown `_type` or key, or a wrong value.
    """
    return parse_typed(EMBEDDERS, EMBEDDER_GROUP, mapping, where)
