"""Embedders: the keys of `embedders`, and what they make LangChain `Embeddings` of."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from millstream.workflow.llms import NIMServer, Server, parse_typed
from millstream.workflow.local_models import check_installed
from millstream.workflow.model_folder import ModelFolder, model_folder
from millstream.workflow.validation import join_path

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


class LocalConfig(BaseModel):
    """`_type: local`: a model in a folder, run here; nothing is downloaded.

    Attributes:
        model_name: the folder, relative to the working directory.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: Path

    def folder(self, where: str) -> ModelFolder:
        """What is in the folder.

        Args:
            where: path of the entry, for errors.

        Raises:
            ConfigError: no whole embedding model that can be read safely.
            MissingExtraError: the library that runs it is not installed.
        """
        key = join_path(where, "model_name")
        folder = model_folder(self.model_name.expanduser(), key)
        check_installed(folder, key)
        return folder


EmbedderConfig = OpenAIEmbedderConfig | HashConfig | LocalConfig
EMBEDDERS: Mapping[str, type[EmbedderConfig]] = {
    "hash": HashConfig,
    "local": LocalConfig,
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
