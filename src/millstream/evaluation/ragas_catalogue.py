"""Which metrics the installed ragas has and what they take, from its source: to import it takes seconds."""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from millstream.errors import ConfigError, MissingExtraError, nearest

MODELS: Final = ("llm", "embeddings")
_SCORE: Final = "ascore"
_NOT_METRICS: Final = frozenset({"BaseMetric", "DistanceMeasure"})
_NEED_A_CLIENT: Final = frozenset({"MultiModalFaithfulness", "MultiModalRelevance"})
"""They send images through a client of OpenAI's own library, past any model that they are given."""
_FITTING: Final = re.compile(r"0\.[0-3](\D|$)")
"""The versions of langchain-community that ragas can be imported beside; later ones lack a module."""


class Metric(NamedTuple):
    """What one metric of ragas takes.

    Attributes:
        name: of its class.
        inputs: by argument of its scoring function, whether it must be given.
        conversation: its `user_input` is the messages of the conversation, not the question's text.
        options: by argument of its constructor, whether it must be given; `llm` and `embeddings` among them.
        old: only `ragas.metrics` has it, which tells what it takes when it is made; the rest is empty.
    """

    name: str
    inputs: dict[str, bool]
    conversation: bool
    options: dict[str, bool]
    old: bool = False


def metric_named(name: str, where: str) -> Metric:
    """A metric by the name of its class.

    Args:
        name: such as `AnswerAccuracy`.
        where: path of the option that names it, for the error.

    Raises:
        ConfigError: the installed ragas has none of this name.
        MissingExtraError: ragas is not installed, or cannot be imported beside what is.
    """
    folder = _folder(where)
    known = dict.fromkeys([*_new_names(folder), *_old_names(folder)])
    if name not in known:
        raise ConfigError(f"{where}: ragas {version('ragas')} has no metric {name!r}{nearest(name, known)}")
    return _described(folder, name)


@lru_cache(maxsize=64)
def _described(folder: Path, name: str) -> Metric:
    module = folder / "collections" / "__init__.py"
    if name not in _new_names(folder):
        return Metric(name, {}, conversation=False, options={}, old=True)
    scored, made = _method(module, name, _SCORE), _method(module, name, "__init__")
    if scored is None:
        raise ConfigError(f"the metric {name!r} of ragas {version('ragas')} has no function {_SCORE}")
    asked = next((each.annotation for each in scored.args.args if each.arg == "user_input"), None)
    conversation = asked is not None and "HumanMessage" in ast.unparse(asked)
    return Metric(name, _arguments(scored), conversation, {} if made is None else _arguments(made))


def _folder(where: str) -> Path:
    """The folder `ragas/metrics`, found without importing anything."""
    feature = f"{where}: the evaluator 'ragas'"
    spec = find_spec("ragas")
    if spec is None or spec.origin is None:
        raise MissingExtraError(feature, "ragas")
    try:
        community = version("langchain-community")
    except PackageNotFoundError:
        raise MissingExtraError(feature, "ragas") from None
    if not _FITTING.match(community):
        raise MissingExtraError(
            f"{feature} cannot be imported beside langchain-community {community}, and", "ragas"
        )
    return Path(spec.origin).parent / "metrics"


@lru_cache(maxsize=4)
def _new_names(folder: Path) -> frozenset[str]:
    tree = _tree(folder / "collections" / "__init__.py")
    names = {alias.asname or alias.name for node in _imports(tree) for alias in node.names}
    return frozenset(names - _NOT_METRICS - _NEED_A_CLIENT)


@lru_cache(maxsize=4)
def _old_names(folder: Path) -> frozenset[str]:
    """Classes that `ragas.metrics` still gives by name; its instances have names in small letters."""
    found: set[str] = set()
    for node in _tree(folder / "__init__.py").body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            found.update(key for key in keys if isinstance(key, str) and key[:1].isupper())
    return frozenset(found - _NOT_METRICS - _NEED_A_CLIENT)


def _method(path: Path, of_class: str, name: str) -> ast.AsyncFunctionDef | ast.FunctionDef | None:
    """A method of a class or of the first of its bases that has it."""
    found = _class(path, of_class)
    if found is None:
        return None
    node, at = found
    for each in node.body:
        if isinstance(each, ast.AsyncFunctionDef | ast.FunctionDef) and each.name == name:
            return each
    methods = (_method(at, base.id, name) for base in node.bases if isinstance(base, ast.Name))
    return next((method for method in methods if method is not None), None)


def _class(path: Path, name: str) -> tuple[ast.ClassDef, Path] | None:
    """Where a class is defined that a module has under this name."""
    tree = _tree(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, path
        other = _alias(node, name)
        if other is not None:
            return _class(path, other)
    for imported in _imports(tree):
        for alias in imported.names:
            if (alias.asname or alias.name) == name:
                source = _file(path, imported)
                return None if source is None else _class(source, alias.name)
    return None


def _alias(node: ast.stmt, name: str) -> str | None:
    """The other name in a statement `name = other`."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)):
        return None
    return node.value.id if [ast.unparse(target) for target in node.targets] == [name] else None


def _file(path: Path, node: ast.ImportFrom) -> Path | None:
    """The file of a module of ragas that another one imports from."""
    parts = (node.module or "").split(".") if node.module else []
    if node.level:
        folder = path.parents[node.level - 1]
    elif parts[:1] == ["ragas"]:
        folder, parts = next(parent for parent in path.parents if parent.name == "ragas"), parts[1:]
    else:
        return None
    target = folder.joinpath(*parts)
    return next(
        (each for each in (target / "__init__.py", target.with_suffix(".py")) if each.is_file()), None
    )


def _arguments(function: ast.AsyncFunctionDef | ast.FunctionDef) -> dict[str, bool]:
    arguments = function.args
    places = arguments.args[1:]  # without self
    needed = len(places) - len(arguments.defaults)
    found = {each.arg: index < needed for index, each in enumerate(places)}
    return found | {
        each.arg: default is None
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }


def _imports(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))


@lru_cache(maxsize=64)
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
