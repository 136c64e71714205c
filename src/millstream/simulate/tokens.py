"""Tokens without a tokenizer: one rule that counts prompts and cuts answers into chunks.

A token is up to eight Latin letters, up to three digits or up to three ASCII punctuation marks, each with the
space before it, or a run of other white space, or any other single character. English comes to about four
characters a token, as with real tokenizers; the tokens of a text, joined, give the text back.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(r" ?[A-Za-z]{1,8}| ?[0-9]{1,3}| ?[!-/:-@\[-`{-~]{1,3}|\s+|.", re.DOTALL)


def split_tokens(text: str) -> list[str]:
    """The tokens of a text, in order; `"".join` of them is the text."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """How many tokens a text has; 0 for an empty one."""
    return len(split_tokens(text))
