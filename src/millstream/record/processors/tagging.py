"""The same attributes on every span: an environment, a team, a release."""

from collections.abc import Mapping

from millstream.errors import ConfigError
from millstream.span import Span


class TaggingProcessor:
    """Puts attributes on every span, in place of those of the same names.

    Args:
        tags: names and values.

    Raises:
        ConfigError: there is none.
    """

    def __init__(self, *, tags: Mapping[str, str | int | float | bool]) -> None:
        if not tags:
            raise ConfigError("tags: give at least one, such as tags: {environment: production}")
        self._tags = dict(tags)

    def __call__(self, span: Span) -> Span:
        """The span with the tags."""
        span.attributes = {**span.attributes, **self._tags}
        return span
