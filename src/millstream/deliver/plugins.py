"""Exporters and processors by name: what installed packages bring, ours by the same door."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from millstream.deliver.options import Accepted, component, raise_all, unknown_keys
from millstream.errors import ConfigError, MillstreamError, nearest

EXPORTERS: Final = "millstream.exporters"
PROCESSORS: Final = "millstream.processors"


def available(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load_entry_point(point: EntryPoint) -> Any:
    """The object of an entry point.

    Raises:
        ConfigError: it cannot be loaded; names the entry point and its package.
    """
    try:
        return point.load()
    except Exception as error:
        package = f" of the package {point.dist.name}" if point.dist else ""
        raise ConfigError(
            f"the entry point {point.name!r} ({point.group}: {point.value}){package} cannot be loaded:"
            f" {type(error).__name__}: {error}; repair or uninstall that package"
        ) from error


class Section:
    """One exporter or processor of a workflow file, found and its options checked, not made yet.

    Args:
        group: the entry point group.
        value: what the file holds: a mapping with `_type`, or with `type` and `config`.
        where: its path there, for errors.
        also: what else takes some of the options.

    Attributes:
        kind: its `_type`.
        others: the keywords for those of `also`.
        problems: what is wrong with these; it hinders nobody to make what the section is of.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
    """

    def __init__(self, group: str, value: Any, where: str, *also: Accepted) -> None:
        options = component(value, where)
        self.kind: str = options.pop("_type")
        self._where = where
        known = available(group)
        if self.kind not in known:
            noun = group.rpartition(".")[2].removesuffix("s")
            raise ConfigError(f"{where}._type: unknown {noun} {self.kind!r}{nearest(self.kind, known)}")
        try:
            self._make: Callable[..., Any] = load_entry_point(known[self.kind])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        own = Accepted(self._make)
        self._keywords, wrong = own.read(options, where)
        self.others: list[dict[str, Any]] = []
        self.problems: list[str] = []
        for one in also:
            keywords, problems = one.read(options, where)
            self.others.append(keywords)
            self.problems += problems
        wrong = [*unknown_keys(options, where, own, *also), *wrong]
        if wrong:
            raise_all(wrong + self.problems)

    def make(self, *methods: str) -> Any:
        """The exporter or processor.

        Args:
            *methods: what it must be able to do; `__call__` is being called.

        Raises:
            ConfigError: an option is wrong, or what was made cannot do it.
            MissingExtraError: something that it needs is not installed.
        """
        try:
            made = self._make(**self._keywords)
        except ConfigError as error:
            raise ConfigError(_placed(str(error), self._where, self._keywords)) from error
        except MillstreamError:
            raise
        except Exception as error:
            raise ConfigError(f"{self._where}: {type(error).__name__}: {error}") from error
        for method in methods:
            if not callable(getattr(made, method, None)):
                cannot = "cannot be called" if method == "__call__" else f"has no {method}()"
                raise ConfigError(
                    f"{self._where}: the plugin {self.kind!r} made a {type(made).__name__}, which {cannot}"
                )
        return made


def _placed(message: str, where: str, keywords: Mapping[str, Any]) -> str:
    """Errors of a constructor, one a line, at their place in the file; one that names its option below it."""
    lines = []
    for line in message.splitlines():
        key, colon, _ = line.partition(":")
        lines.append(f"{where}.{line}" if colon and key in keywords else f"{where}: {line}")
    return "\n".join(lines)
