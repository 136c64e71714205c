"""The evaluator `similarity`: against brute force, over a real embeddings server, and on hostile texts."""

import math
import time
import tracemalloc
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_openai import OpenAIEmbeddings

from millstream.errors import ConfigError
from millstream.evaluation import registry
from millstream.evaluation.config import parse_eval
from millstream.evaluation.evaluators import bit_blocks
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.evaluators.edit_distance import levenshtein
from millstream.evaluation.evaluators.rouge import common_length, rouge_l, words
from millstream.evaluation.evaluators.similarity import Similarity, _cosine
from millstream.evaluation.models import Models
from millstream.workflow.config import load_config
from tests.simulate.process import running


def item(output: object, expected: object) -> EvalItem:
    return EvalItem("1", 1, "q", expected, output, [], {})


def distance_by_table(one, other):
    above = list(range(len(other) + 1))
    for row, a in enumerate(one, 1):
        line = [row]
        for column, b in enumerate(other, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (a != b)))
        above = line
    return above[-1]


def common_by_table(one, other):
    above = [0] * (len(other) + 1)
    for a in one:
        line = [0]
        for column, b in enumerate(other, 1):
            line.append(above[column - 1] + 1 if a == b else max(above[column], line[-1]))
        above = line
    return above[-1]


TEXTS = st.text(st.sampled_from("abcé😀\ud800"), max_size=24)
BLOCKS = st.sampled_from([1, 2, 3, 5, 8, 64])


@given(TEXTS, TEXTS, BLOCKS)
def test_the_distance_is_that_of_the_table(one, other, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bit_blocks, "_BLOCK", block)
        assert levenshtein(one, other) == distance_by_table(one, other)


@given(TEXTS, TEXTS, BLOCKS)
def test_the_common_subsequence_is_that_of_the_table(one, other, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bit_blocks, "_BLOCK", block)
        assert common_length(list(one), list(other)) == common_by_table(one, other)


def test_texts_of_many_blocks():
    one = "".join(chr(97 + (n * n) % 26) for n in range(40_000))
    edited = one[:10_000] + "?" + one[10_001:20_000] + one[20_003:] + "!!"
    assert levenshtein(one, edited) == levenshtein(edited, one) == 1 + 3 + 2
    assert common_length(list(one), list(edited)) == 40_000 - 1 - 3


@given(TEXTS, TEXTS)
def test_both_measures_are_shares_and_1_for_the_same_text(one, other):
    for method in ("edit", "rouge_l"):
        score = Similarity(method=method)(item(one, other)).score
        assert score is None or 0 <= score <= 1
    assert Similarity(method="edit")(item(one, one)).score == 1
    assert Similarity(method="edit")(item(one, other)).score == pytest.approx(
        Similarity(method="edit")(item(other, one)).score
    )


@pytest.mark.parametrize(
    ("method", "output", "expected", "score"),
    [
        ("edit", "kitten", "sitting", 1 - 3 / 7),
        ("edit", "", "", 1),
        ("edit", None, "abc", 0),
        ("edit", "cafe\u0301", "caf\u00e9", 1),
        ("edit", "👩‍👧", "👩", 1 / 3),
        ("edit", 42, "42", 1),
        ("rouge_l", "the cat sat", "The cat, it sat!", 6 / 7),
        ("rouge_l", "police kill the gunman", "police killed the gunman", 0.75),
        ("rouge_l", "...", "a b", 0),
        ("rouge_l", "a b", "...", None),
        ("rouge_l", "cafe\u0301 ouvert", "Caf\u00e9 ferm\u00e9", 0.5),
        ("rouge_l", "a_b", "a b", 1),
    ],
)
def test_scores(method, output, expected, score):
    given = Similarity(method=method)(item(output, expected))
    assert given.score == (None if score is None else pytest.approx(score))
    assert score is not None or "no words" in given.reasoning


def test_the_reason_has_what_the_score_is_made_of():
    assert Similarity(method="edit")(item("kitten", "sitting")).reasoning == {"distance": 3, "characters": 7}
    values = Similarity(method="rouge_l")(item("a b c d", "a c")).reasoning["values"]
    assert values == {"f1": pytest.approx(2 / 3), "precision": 0.5, "recall": 1}


GOOGLE = [
    ("the quick brown fox", "the fast brown fox jumped", 0.75, 0.6, 2 / 3),
    ("testing one two", "testing", 1 / 3, 1, 0.5),
    ("A man's best-friend: 2 dogs", "a man s friend, dogs 2 (two)", 5 / 7, 5 / 7, 5 / 7),
]
"""(answer, expected, precision, recall, F1) as `rouge-score` 0.1.2 gives them, without stemming."""


@pytest.mark.parametrize(("answer", "expected", "precision", "recall", "f1"), GOOGLE)
def test_figures_of_google(answer, expected, precision, recall, f1):
    found = rouge_l(words(answer), words(expected))
    assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))


@pytest.mark.parametrize("method", ["edit", "rouge_l"])
def test_an_answer_of_5_mb_beside_a_short_text(method):
    answer, expected = "One word after another. " * 220_000, "One word is not another. " * 8
    began_s = time.process_time()
    assert 0 < Similarity(method=method)(item(answer, expected)).score < 0.01
    assert time.process_time() - began_s < 10


def test_long_texts_take_memory_that_grows_with_their_sum():
    one = "".join(chr(0x4E00 + n * 7919 % 19_000) for n in range(20_000))
    other = "".join(chr(0x4E00 + n * 104_729 % 19_000) for n in range(20_000))
    tracemalloc.start()
    try:
        levenshtein(one, other)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000  # a table would have 400 million cells
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("method", "unit"), [("edit", "characters"), ("rouge_l", "words")])
def test_texts_too_long_to_compare_have_a_missing_score(method, unit):
    began_s = time.process_time()
    score = Similarity(method=method)(item("a " * 2_000_000, "b " * 2_000_000))
    assert score.score is None
    assert f"{unit} and the expected one" in score.reasoning
    assert time.process_time() - began_s < 10


# Embeddings


class OverTheWire(Models):
    """The models of a workflow file, with LangChain's own client for its embedder."""

    base_url = ""
    client: httpx.AsyncClient

    async def embedder(self, name):
        return OpenAIEmbeddings(
            model="embedder",
            base_url=self.base_url,
            api_key="right",
            check_embedding_ctx_length=False,
            http_async_client=self.client,
        )


@pytest.fixture
def models(tmp_path: Path) -> OverTheWire:
    (tmp_path / "flow.yml").write_text("embedders: {near: {_type: openai, model_name: m, api_key: right}}\n")
    return OverTheWire(load_config(tmp_path / "flow.yml"))


def bound(models, **options):
    config = parse_eval({"evaluators": {"alike": {"_type": "similarity", **options}}})
    return registry.build_evaluators(config, Path(), models)[0]


async def test_the_cosine_of_both_texts_asked_for_at_once(models, tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("models: {embedder: {}}\napi_key: right\n")
    metric = bound(models, method="embedding", embedder_name="near")
    with running(rules) as server:
        async with httpx.AsyncClient() as models.client:
            models.base_url = server.base_url
            score = await metric.call(item("the cat sat on the mat", "a dog in the fog"))
            vectors = await (await models.embedder("near")).aembed_documents(
                ["the cat sat on the mat", "a dog in the fog"]
            )
            requests = server.stats()["models"]["embedder"]["requests"]
            same = await metric.call(item("the cat", "the cat"))
            assert (await metric.call(item("", "the cat"))).score == 0
            assert (await metric.call(item("the cat", " "))).score is None
    assert requests == 2, "one for the score, one for the test"
    product = sum(a * b for a, b in zip(*vectors, strict=True))
    norms = [sum(a * a for a in vector) ** 0.5 for vector in vectors]
    assert score.reasoning["cosine"] == pytest.approx(product / norms[0] / norms[1])
    assert score.score == pytest.approx(max(0, score.reasoning["cosine"]))
    assert same.score == pytest.approx(1)


def test_a_cosine_is_at_most_1_however_it_is_rounded():
    vector = [0.1] * 3
    assert math.fsum((one / math.hypot(*vector)) ** 2 for one in vector) > 1
    assert _cosine(vector, vector).reasoning == {"cosine": 1.0}


def test_an_item_without_expected_text_is_said_to_be_unscorable(models):
    metric = bound(models, method="embedding", embedder_name="near")
    assert metric.needs_expected
    assert "empty" in metric.unscorable(item("x", " "))


@pytest.mark.parametrize(
    ("vectors", "score"),
    [
        ([[1, 0], [1, 0]], 1),
        ([[1, 0], [-1, 0]], 0),
        ([[3, 4], [4, 3]], 24 / 25),
        ([[0, 0], [1, 0]], None),
        ([[float("nan"), 0], [1, 0]], None),
        ([[1e200, 0], [1e200, 0]], 1),
        ([[1, 0], [1, 0, 0]], None),
    ],
)
async def test_vectors_of_any_server(models, vectors, score, monkeypatch):
    class Fixed:
        async def aembed_documents(self, texts):
            assert texts == ["a", "b"]
            return vectors

    async def embedder(name):
        assert name == "near"
        return Fixed()

    monkeypatch.setattr(models, "embedder", embedder)
    given = await bound(models, method="embedding", embedder_name="near").call(item("a", "b"))
    assert given.score == (None if score is None else pytest.approx(score))
    assert score is not None or "the embedder gave" in given.reasoning


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "method"),
        ({"method": "bleu"}, "method"),
        ({"method": "embedding"}, "embedder_name, a key under embedders"),
        ({"method": "edit", "embedder_name": "near"}, "for method embedding, not for edit"),
        (
            {"method": "embedding", "embedder_name": "neer"},
            r"alike.embedder_name: there is no embedders.neer",
        ),
    ],
)
def test_wrong_options_are_told_before_the_run(models, options, words):
    with pytest.raises(ConfigError, match=words):
        bound(models, **options)
