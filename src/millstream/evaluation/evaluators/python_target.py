"""An evaluator of the user's own: any callable."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from millstream.errors import ConfigError
from millstream.evaluation.evaluators.base import Binding, EvalItem, EvaluatorBase
from millstream.workflow.functions import call_any
from millstream.workflow.modules import load_target


class PythonEvaluator(EvaluatorBase):
    """Calls `target` with the item: it returns a number, a truth value or `{score, reasoning}`.

    Attributes:
        target: `module:attribute` or `file.py:attribute`, relative to the workflow file; sync or async. A
            class is made once, without arguments, and its object is called. A sync function runs on a
            thread, so that it does not hold up the others.
    """

    target: str

    def bind(self, binding: Binding) -> Callable[[EvalItem], Any]:
        """Load the target."""
        where = f"{binding.where}.target"
        function = load_target(self.target, binding.directory, where=where)
        if inspect.isclass(function):
            try:
                function = function()
            except Exception as error:
                raise ConfigError(
                    f"{where}: {self.target} cannot be made: {type(error).__name__}: {error}"
                ) from error
        if not callable(function):
            raise ConfigError(
                f"{where}: {self.target} is of the type {type(function).__name__}; it must be callable"
            )
        return partial(call_any, function)
