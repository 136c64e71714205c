"""A folder that holds an embedding model: what kind, and whether all of it is there. Nothing is loaded.

Two forms are known, those of the field: a static model (Model2Vec, or `StaticEmbedding` of
sentence-transformers), and any other model that sentence-transformers saved. Weights must be safetensors: a
pickle can run code when it is read.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from millstream.errors import ConfigError

_MODULES: Final = "modules.json"
_WEIGHTS: Final = "*.safetensors"
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SAYS_WHAT: Final = (".json", ".txt", ".model", ".safetensors")
"""Endings of files that make a difference to the vectors."""
_STATIC_TENSORS: Final = ("embeddings", "embedding.weight")
_OF_CACHE: Final = re.compile(r"models--(.+)")
_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_POINTER: Final = b"version "
_MAX_HEADER: Final = 100_000_000
"""Of the safetensors format."""


class ModelFolder(NamedTuple):
    """A folder with a whole model.

    Attributes:
        path: the folder.
        is_static: one vector a token and no network, as Model2Vec makes them.
        is_normalized: the model says that its vectors have length 1.
        parts: the folders below `path` that its modules are in, itself among them.
    """

    path: Path
    is_static: bool
    is_normalized: bool
    parts: tuple[Path, ...]

    @property
    def name(self) -> str:
        """For people and spans: the folder's own; in the cache of Hugging Face that of the model."""
        for part in reversed(self.path.absolute().parts):
            cached = _OF_CACHE.fullmatch(part)
            if cached:
                return cached[1].replace("--", "/")
        return self.path.absolute().name

    def digest(self) -> str:
        """Of all files that make a difference to the vectors, as hex digits. Reads them whole."""
        whole = hashlib.blake2b(digest_size=16)
        files = {file for part in self.parts for file in part.iterdir() if file.suffix in _SAYS_WHAT}
        for file in sorted(files):
            with file.open("rb") as opened:
                one = hashlib.file_digest(opened, hashlib.blake2b).hexdigest()
            whole.update(f"{file.relative_to(self.path)} {one}\n".encode())
        return whole.hexdigest()


def model_folder(path: Path, where: str) -> ModelFolder:
    """Look at a folder.

    Args:
        path: of the folder.
        where: the key that names it, for errors.

    Raises:
        ConfigError: it holds no embedding model, not all of one, or one that would have to be unpickled.
    """
    if not path.is_dir():
        raise ConfigError(f"{where}: {_no_folder(path)}")
    try:
        return _looked_at(path, where)
    except OSError as error:
        raise ConfigError(f"{where}: {error.filename or path} cannot be read: {error.strerror}") from None


def _no_folder(path: Path) -> str:
    if path.exists():
        return f"{path} is a file; name the folder that holds the model"
    if _HUB_NAME.fullmatch(str(path)):
        return (
            f"there is no folder {path} in {Path.cwd()}, and nothing is downloaded; fetch the model once"
            f" (hf download {path} --local-dir {path}), or name the folder that it is in"
        )
    return f"there is no folder {path}" + ("" if path.is_absolute() else f" in {Path.cwd()}")


def _looked_at(path: Path, where: str) -> ModelFolder:
    modules = list(_modules(path, where))
    parts = {path / module["path"]: None for module in modules} or {path: None}
    tensors = {name for part in parts for name in _tensors_of(part, where)}
    if not tensors:
        raise ConfigError(
            f"{where}: there is no embedding model in {path}: no model.safetensors. Name the folder that"
            f" holds it beside {_MODULES} or config.json"
        )
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    only_static = set(kinds[:1]) <= {"StaticEmbedding"} and set(kinds[1:]) <= {"Normalize"}
    is_static = only_static and any(name in tensors for name in _STATIC_TENSORS)
    if not (is_static or modules):
        raise ConfigError(
            f"{where}: {path} holds a model, but no {_MODULES}, which says how the vectors of its tokens"
            " become one; take an embedding model as sentence-transformers or Model2Vec saves it"
        )
    return ModelFolder(path, is_static, "Normalize" in kinds, tuple({path: None, **parts}))


def _modules(path: Path, where: str) -> Iterator[Mapping[str, Any]]:
    """What `modules.json` lists: the steps from a text to its vector."""
    if not (path / _MODULES).exists():
        return
    try:
        modules = json.loads((path / _MODULES).read_bytes())
        listed = [{"type": str(module["type"]), "path": str(module["path"])} for module in modules]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{where}: {path / _MODULES} is damaged; fetch the model again") from None
    for module in listed:
        if not module["type"].startswith("sentence_transformers."):
            raise ConfigError(
                f"{where}: the model in {path} needs Python code of its own ({module['type']}), which is not"
                " run; take another model, or serve it and use _type: openai with its base_url"
            )
        folder = path / module["path"]
        if not folder.resolve().is_relative_to(path.resolve()):
            raise ConfigError(f"{where}: {path / _MODULES} names a folder outside: {module['path']}")
        if folder.is_dir():  # some steps have no files
            yield module
        else:
            yield {**module, "path": "."}


def _tensors_of(part: Path, where: str) -> Iterator[str]:
    """The names of the tensors in the files of one folder."""
    files = sorted(part.glob(_WEIGHTS))
    pickled = sorted(file.name for file in part.iterdir() if file.suffix in _PICKLED)
    if pickled and not files:
        raise ConfigError(
            f"{where}: {part} holds its weights as a pickle only ({pickled[0]}), and reading that can run"
            " code; take a version of the model that has model.safetensors"
        )
    for file in files:
        yield from _tensors(file, where)


def _tensors(file: Path, where: str) -> Iterator[str]:
    """The names of the tensors in a file of safetensors: 8 bytes of length, a JSON header, the data.

    Raises:
        ConfigError: it is another format, or not whole.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(_POINTER))
        length = int.from_bytes(start, "little")
        if start == _POINTER:
            raise ConfigError(
                f"{where}: {file} is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`"
            )
        header = opened.read(length) if length <= _MAX_HEADER else b""
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = len(_POINTER) + length + max(tensor["data_offsets"][1] for tensor in tensors.values())
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise ConfigError(
            f"{where}: {file} is not in the format safetensors, or damaged; fetch the model again"
        ) from None
    if end != size:
        raise ConfigError(f"{where}: {file} has {size:,} of {end:,} bytes; fetch the model again")
    yield from tensors
