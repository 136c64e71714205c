import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulate.process import running


@pytest.fixture
def start(tmp_path) -> Callable[..., Any]:
    """`with start(rules_text, *options) as server:`."""

    def start_with(rules: str, *arguments: str):
        path = tmp_path / "rules.yml"
        path.write_text(textwrap.dedent(rules))
        return running(path, *arguments)

    return start_with
