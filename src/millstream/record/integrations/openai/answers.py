"""What an answer of OpenAI's API says, whole or piece by piece."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from millstream.record.integrations.observed import Observed


class Answer:
    """The answer to one request, which tells the step what it says.

    Attributes:
        operation: `gen_ai.operation.name`.
        step: of the request.
        failure: what went wrong where the API answers all the same.
    """

    operation: ClassVar[str]

    def __init__(self, step: Observed) -> None:
        self.step = step
        self.failure: BaseException | None = None

    @staticmethod
    def content(body: Mapping[str, Any]) -> Any:
        """The input of the request's step: messages in OpenAI's chat form."""
        raise NotImplementedError

    @staticmethod
    def parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request's parameters under the names of the chat API."""
        return body

    def whole(self, answer: Any) -> None:
        """Record an answer that is complete."""
        raise NotImplementedError

    def see(self, piece: Any) -> bool:
        """Take in a piece of a stream; whether it carries something that the model said."""
        raise NotImplementedError

    def finish(self) -> None:
        """Record what was seen of a stream."""


def read(value: Any, name: str) -> Any:
    """A field of an answer, which is one of the SDK's objects or plain JSON; `None` where it has none."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def known(**fields: Any) -> dict[str, Any]:
    """A dict of the fields that are not empty."""
    return {key: value for key, value in fields.items() if value}


def items(value: Any) -> Iterable[Any]:
    """The items of a field that may be absent."""
    return value if isinstance(value, (list, tuple)) else ()
