"""Methods that a base class leaves to its subclasses, replaced in all: those there are, those to come."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from millstream.record.integrations.observed import quietly

Replace = Callable[[Any], Any]
"""Makes the method that is put in the place of another; it is to be made by `functools.wraps`."""
_MARK: Final = "_millstream_replacement"
"""On a replacement of ours, itself; who wraps it may copy the mark, which is not true of the copy."""
_HOOK: Final = "__init_subclass__"


class Family:
    """The classes below a base. Keeps none of them alive: the way back is on the replacements.

    Args:
        base: its own methods stay as they are.
        replacements: by the name of the method.
    """

    def __init__(self, base: Any, replacements: Mapping[str, Replace]) -> None:
        self._base = base
        self._replacements = replacements
        self._before: Any = None
        self._hook: Any = None

    def put(self) -> None:
        """Replace the methods wherever a subclass defines them, from now on."""
        for owner in set(_below(self._base)):
            self._replace(owner)
        self._before = vars(self._base).get(_HOOK)
        setattr(self._base, _HOOK, classmethod(self._make_hook()))
        self._hook = vars(self._base)[_HOOK]

    def undo(self) -> None:
        """Put everything back; of several families of one base, the last one first."""
        if vars(self._base).get(_HOOK) is self._hook:
            if self._before is None:
                delattr(self._base, _HOOK)
            else:
                setattr(self._base, _HOOK, self._before)
        self._hook = None
        owner: Any
        for owner in set(_below(self._base)):
            for name in self._replacements:
                if _is_ours(method := vars(owner).get(name)):
                    setattr(owner, name, method.__wrapped__)

    def _replace(self, owner: Any) -> None:
        for name, replace in self._replacements.items():
            method = vars(owner).get(name)
            if not callable(method) or getattr(method, "__isabstractmethod__", False):
                continue
            if not _is_ours(method) and (new := replace(method)) is not method:
                setattr(new, _MARK, new)
                setattr(owner, name, new)

    def _make_hook(self) -> Callable[..., None]:
        base, before, replace = self._base, self._before, quietly(self._replace)

        def hook(cls: Any, **kwargs: Any) -> None:
            if before is None:
                super(base, cls).__init_subclass__(**kwargs)
            else:
                before.__get__(None, cls)(**kwargs)
            if self._hook is not None:
                replace(cls)

        return hook


def _is_ours(method: Any) -> bool:
    return method is not None and getattr(method, _MARK, None) is method


def _below(base: Any) -> Iterator[Any]:
    for owner in type.__subclasses__(base):
        yield owner
        yield from _below(owner)
