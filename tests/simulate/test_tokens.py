import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.simulate.tokens import count_tokens, split_tokens


@given(st.text())
def test_tokens_joined_are_the_text(text):
    assert "".join(split_tokens(text)) == text


def test_tokens_are_of_the_size_that_real_tokenizers_give():
    assert split_tokens('{"city": "Rome"}') == ['{"', "city", '":', ' "', "Rome", '"}']
    assert split_tokens("Check transactions 12345.") == ["Check", " transact", "ions", " 123", "45", "."]
    assert split_tokens("a\n\nb") == ["a", "\n\n", "b"]
    assert count_tokens("你好") == 2
    assert count_tokens("") == 0


PLAIN = """A tool reads the mail before anyone else does and says whether it is likely to be a trap. It
looks at who sent it, where the links go and what is asked for, and it writes down why it thinks so."""
TECHNICAL = """The profiler instruments the workflow execution by collecting usage statistics in real time,
recording the statistics on a per-invocation basis, and forecasting usage metrics with time-series models."""


@pytest.mark.parametrize("prose", [PLAIN, TECHNICAL])
def test_english_comes_to_about_four_characters_a_token(prose):
    assert 3.5 < len(prose) / count_tokens(prose) < 5
