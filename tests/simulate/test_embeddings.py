"""Embeddings: the real openai SDK against the real process, and the vectors themselves."""

import asyncio
import base64
import math
import struct
import time

import httpx
import openai
import pytest

from millstream.simulate.vectors import vector_of
from tests.simulate.process import running
from tests.simulate.test_server_faults import client_of

RULES = """
models:
  words: {}
  small: {dimensions: 8, context_window: 5}
  slow: {latency: {time_to_first_token_s: 0.2, time_per_input_token_s: 0.01}, max_concurrency: 1}
  cached: {prefix_cache: true}
  flaky: {errors: [{status: 503, every: 2}]}
  few: {rate_limits: {tokens_per_minute: 10}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules, "--seed", "7") as stand_in:
        yield stand_in


@pytest.fixture
def client(server):
    with client_of(server) as client:
        yield client


def embed(client, texts="hello there", model="words", **more):
    return client.embeddings.create(model=model, input=texts, **more)


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_a_vector_with_its_usage(client):
    answer = embed(client)
    assert (answer.object, answer.model) == ("list", "words")
    (one,) = answer.data
    assert (one.object, one.index, len(one.embedding)) == ("embedding", 0, 256)
    assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-6)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)


def test_numbers_and_base64_are_the_same_vector(client, server):
    as_numbers = embed(client, encoding_format="float").data[0].embedding
    as_base64 = embed(client, encoding_format="base64").data[0].embedding
    assert struct.unpack("<256f", base64.b64decode(as_base64)) == tuple(as_numbers)
    assert list(embed(client).data[0].embedding) == as_numbers
    raw = httpx.post(f"{server.base_url}/embeddings", json={"model": "words", "input": "hello there"})
    assert raw.json()["data"][0]["embedding"] == as_numbers


def test_equal_texts_have_equal_vectors_in_any_company(client):
    first, second = embed(client, ["a cat", "a dog"]).data
    assert (first.index, second.index) == (0, 1)
    assert embed(client, "a dog").data[0].embedding == second.embedding
    assert first.embedding != second.embedding


def test_tokens_are_taken_like_texts(client):
    (one,) = embed(client, [1, 2, 3]).data
    answer = embed(client, [[1, 2, 3], [4]])
    assert answer.data[0].embedding == one.embedding
    assert (len(answer.data), answer.usage.prompt_tokens) == (2, 4)


def test_dimensions_are_the_models_or_fewer(client):
    assert len(embed(client, model="small").data[0].embedding) == 8
    three = embed(client, dimensions=3).data[0].embedding
    assert (len(three), math.hypot(*three)) == (3, pytest.approx(1, abs=1e-6))
    with pytest.raises(openai.BadRequestError, match=r"'dimensions' = 9\. Must be less than or equal to 8"):
        embed(client, model="small", dimensions=9)


async def test_the_asynchronous_client_and_the_time_it_takes(server):
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client:
        start = time.monotonic()
        answers = await asyncio.gather(*(embed(client, f"text {n}", "slow") for n in range(3)))
    assert time.monotonic() - start >= 3 * 0.22
    assert all(len(answer.data) == 1 for answer in answers)


def test_the_prompt_cache_has_nothing_to_do_with_it(client, server):
    for _ in range(2):
        embed(client, "word " * 100, "cached")
    stats = server.stats()["models"]["cached"]
    assert (stats["cached_tokens"], stats["prompt_tokens"], stats["completed"]) == (0, 202, 2)


def test_errors_and_limits_are_those_of_the_model(client):
    embed(client, model="flaky")
    with pytest.raises(openai.InternalServerError, match="overloaded"):
        embed(client, model="flaky")
    embed(client, "one two three four five six", "few")
    with pytest.raises(openai.RateLimitError, match="tokens per min"):
        embed(client, "one two three four five six", "few")
    with pytest.raises(openai.BadRequestError, match="however you requested 6 tokens") as caught:
        embed(client, ["short", "one two three four five six"], "small")
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError, match="`none` does not exist"):
        embed(client, model="none")


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"model": None}, "you must provide a model parameter", None),
        ({"input": None}, "Missing required parameter: 'input'.", "input"),
        ({"input": ""}, "'$.input' is invalid", "input"),
        ({"input": []}, "'$.input' is invalid", "input"),
        ({"input": ["a", ""]}, "'$.input' is invalid", "input"),
        ({"input": ["a", 1]}, "'$.input' is invalid", "input"),
        ({"input": [[1], []]}, "'$.input' is invalid", "input"),
        ({"input": [True]}, "'$.input' is invalid", "input"),
        ({"input": {"text": "a"}}, "'$.input' is invalid", "input"),
        ({"input": ["a"] * 2049}, "maximum length 2048", "input"),
        ({"encoding_format": "int8"}, "Supported values are: 'float', 'base64'.", "encoding_format"),
        ({"encoding_format": [1]}, "Invalid value", "encoding_format"),
        ({"dimensions": 0}, "Expected a value >= 1", "dimensions"),
        ({"dimensions": 1.5}, "expected an integer", "dimensions"),
    ],
)
def test_what_openai_would_not_take(server, body, message, param):
    answer = httpx.post(f"{server.base_url}/embeddings", json={"model": "words", "input": "a", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert message in answer.json()["error"]["message"]


def test_texts_with_words_in_common_are_nearer():
    question = vector_of("How do I bake bread with yeast?", 256, 0)
    near = vector_of("Bread: bake it slowly, and use fresh yeast.", 256, 0)
    far = vector_of("The train to Oslo leaves at noon.", 256, 0)
    assert dot(question, near) > 0.3 > abs(dot(question, far))
    assert dot(vector_of("good dog", 256, 0), vector_of("dog good", 256, 0)) > 0.9


def test_vectors_depend_on_the_seed_and_on_every_letter():
    assert vector_of("a b", 64, 0) == vector_of("a b", 64, 0)
    assert vector_of("a b", 64, 0) != vector_of("a b", 64, 1)
    assert vector_of("a b", 64, 0) != vector_of("b a", 64, 0)


@pytest.mark.parametrize("text", ["?!", " ", "\ud800", "日本語", "word " * 1000])
@pytest.mark.parametrize("dimensions", [1, 2, 1536])
def test_every_text_has_a_vector_of_length_1(text, dimensions):
    for seed in range(20):
        assert math.hypot(*vector_of(text, dimensions, seed)) == pytest.approx(1, abs=1e-6)
