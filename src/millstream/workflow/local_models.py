"""Embedding models from a folder, run in this process.

Static ones by model2vec, all others by sentence-transformers. Neither is let near the network, a
pickle or a model's own code; see `model_folder`.
"""

import importlib.util
from collections.abc import Callable
from threading import Lock
from typing import Any, Final
from weakref import WeakValueDictionary

from millstream.errors import ConfigError, MissingExtraError
from millstream.workflow.model_folder import ModelFolder

_Encode = Callable[[list[str]], Any]
"""Gives a matrix of NumPy, one row a text."""
_loaded: "WeakValueDictionary[tuple[str, str], LocalModel]" = WeakValueDictionary()
_loading: Final = Lock()


class LocalModel:
    """A model in memory; one call at a time, for tokenizers cannot be shared.

    Args:
        documents: makes vectors of passages.
        queries: makes vectors of questions.
    """

    def __init__(self, documents: _Encode, queries: _Encode) -> None:
        self._documents = documents
        self._queries = queries
        self._turn = Lock()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return self._vectors(self._documents, texts)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self._vectors(self._queries, [text])[0]

    def _vectors(self, encode: _Encode, texts: list[str]) -> list[list[float]]:
        if not texts:
            return []
        with self._turn:
            vectors: list[list[float]] = encode(texts).astype("float32").tolist()
        return vectors


def check_installed(folder: ModelFolder, where: str) -> None:
    """Whether the library that a model needs is there.

    Args:
        folder: of the model.
        where: the key that names it.

    Raises:
        MissingExtraError: it is not.
    """
    package, extra = _needs(folder)
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(f"{where}: the model in {folder.path}", extra)


def load(folder: ModelFolder, where: str) -> LocalModel:
    """The model of a folder; that in memory if it is in use and the files are the same.

    Args:
        folder: of a model whose library is installed.
        where: the key that names it, for errors.

    Raises:
        ConfigError: the library cannot load it.
    """
    with _loading:
        key = (str(folder.path.resolve()), folder.digest())
        model = _loaded.get(key)
        if model is None:
            try:
                model = _static(folder) if folder.is_static else _transformer(folder)
            except Exception as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
                raise ConfigError(
                    f"{where}: {_needs(folder)[0]} cannot load the model in {folder.path} ({said})"
                ) from error
            _loaded[key] = model
        return model


def _needs(folder: ModelFolder) -> tuple[str, str]:
    """The package that runs a model, and the extra that brings it."""
    return (
        ("model2vec", "embeddings")
        if folder.is_static
        else ("sentence_transformers", "sentence-transformers")
    )


def _static(folder: ModelFolder) -> LocalModel:
    from model2vec import StaticModel  # noqa: PLC0415  # an extra

    model = StaticModel.from_pretrained(folder.path, normalize=folder.is_normalized or None)

    def encode(texts: list[str]) -> Any:
        return model.encode(texts, max_length=None, use_multiprocessing=False)

    return LocalModel(encode, encode)


def _transformer(folder: ModelFolder) -> LocalModel:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  # an extra
    from transformers.utils import logging  # noqa: PLC0415  # what it is made of

    showed = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(
            str(folder.path),
            device="cpu",  # the same vectors on every machine, and no memory that a model server has
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    finally:
        if showed:
            logging.enable_progress_bar()

    def documents(texts: list[str]) -> Any:
        return model.encode_document(texts, show_progress_bar=False)

    def queries(texts: list[str]) -> Any:
        return model.encode_query(texts, show_progress_bar=False)

    return LocalModel(documents, queries)
