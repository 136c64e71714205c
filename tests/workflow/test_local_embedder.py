"""`_type: local`: real models of a few words in folders, against their own library and against NumPy."""

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from millstream import semconv
from millstream.errors import ConfigError, MissingExtraError
from millstream.evaluation import registry
from millstream.evaluation.config import parse_eval
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.fingerprint import evaluator_fingerprint
from millstream.evaluation.models import Models
from millstream.span import SpanKind
from millstream.workflow import Builder, load_config, open_workflow
from millstream.workflow.checks import check_config
from tests.workflow.test_model_folder import TRANSFORMER, safetensors

pytest.importorskip("model2vec", reason="needs the extra [embeddings]")
import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

WORDS = ["[UNK]", "mills", "grind", "corn", "streams", "turn", "wheels", "car", "automobile", "banana"]
ENTRY = "embedders: {near: {_type: local, model_name: model}}\n"


def matrix(seed=1):
    """A vector a word; `car` and `automobile` are near each other."""
    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), 16)).astype(np.float32)
    vectors[8] = vectors[7] + 0.1
    return vectors


def save(folder, vectors, normalize=True):
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.normalizer = Whitespace(), Lowercase()
    StaticModel(vectors, tokenizer, normalize=normalize).save_pretrained(folder)


def by_hand(text, vectors):
    known = [vectors[WORDS.index(word)] for word in text.lower().split() if word in WORDS]
    mean = np.mean(known, axis=0)
    return mean / np.linalg.norm(mean)


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    """The folder of a model, in the working directory."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", matrix())
    return tmp_path / "model"


@pytest.fixture
def embedder(write):
    """Makes the embedder of the model."""

    async def make():
        return await Builder(load_config(write(ENTRY))).get_embedder("near")

    return make


async def test_vectors_are_those_of_the_library_and_of_numpy(embedder, model, spans):
    texts = ["Mills grind corn", "streams turn unknown wheels", "car"]
    near = await embedder()
    vectors = await near.aembed_documents(texts)
    assert vectors == StaticModel.from_pretrained(model).encode(texts).tolist()
    np.testing.assert_allclose(vectors, [by_hand(text, matrix()) for text in texts], rtol=1e-5)
    assert await near.aembed_query(texts[0]) == vectors[0] == near.embed_query(texts[0])
    assert near.embed_documents(texts) == vectors
    assert await near.aembed_documents([]) == []
    assert await near.aembed_query("nothing known") == [0.0] * 16
    documents, query, *_ = spans()
    assert (documents.kind, documents.name) == (SpanKind.EMBEDDING, "model")
    assert documents.attributes[semconv.REQUEST_MODEL] == "model"
    assert documents.input == texts
    assert documents.output == {"count": 3, "dimensions": 16}
    assert query.output == {"count": 1, "dimensions": 16}


async def test_the_whole_of_a_long_text_counts(embedder):
    near = await embedder()
    text = "mills " * 2000 + "banana " * 6000
    np.testing.assert_allclose(near.embed_query(text), by_hand(text, matrix()), rtol=1e-4)


async def test_vectors_of_half_precision_and_of_any_length(embedder, model):
    save(model, matrix().astype(np.float16), normalize=False)
    found = (await embedder()).embed_query("mills corn")
    expected = (matrix()[1] + matrix()[3]) / 2
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)


async def test_similarity_by_the_cosine_of_the_model(write):
    config = load_config(write(ENTRY))
    async with Models(config) as models:
        options = {"alike": {"_type": "similarity", "method": "embedding", "embedder_name": "near"}}
        (metric,) = registry.build_evaluators(parse_eval({"evaluators": options}), Path(), models)
        score = await metric.call(EvalItem("1", 1, "q", "automobile", "car", [], {}))
        far = await metric.call(EvalItem("2", 1, "q", "banana", "car", [], {}))
        none = await metric.call(EvalItem("3", 1, "q", "banana", "zzz", [], {}))
    cosine = float(by_hand("car", matrix()) @ by_hand("automobile", matrix()))
    assert score.score == pytest.approx(cosine, rel=1e-5)
    assert score.score > 0.95 > far.score
    assert (none.score, "without a direction" in none.reasoning) == (None, True)


RETRIEVER = f"""{ENTRY}
workflow: {{_type: vector_retriever, documents: notes.jsonl, embedder_name: near, top_k: 2, index_dir: index}}
"""


async def test_a_retriever_finds_what_brute_force_finds_and_sees_another_model(write, tmp_path, model, spans):
    texts = ["mills grind corn", "streams turn wheels", "banana", "an automobile"]
    (tmp_path / "notes.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    config = load_config(write(RETRIEVER))
    for seed, built in ((1, 1), (1, 1), (2, 2)):  # times that the index was built
        save(model, matrix(seed))
        async with open_workflow(config) as workflow:
            found = await workflow.run("car")
        asked = by_hand("car", matrix(seed))
        scores = {text: float(by_hand(text, matrix(seed)) @ asked) for text in texts}
        nearest = sorted(texts, key=scores.get, reverse=True)[:2]
        assert [document["content"] for document in found] == nearest
        assert [document["score"] for document in found] == pytest.approx(
            [scores[text] for text in nearest], abs=1e-5
        )
        assert [span.input for span in spans() if span.kind is SpanKind.EMBEDDING].count(texts) == built


def test_another_model_in_the_folder_is_another_evaluator(model):
    options = {"_type": "similarity", "method": "embedding", "embedder_name": "near"}
    effective = {"embedders": {"near": {"_type": "local", "model_name": "model"}}}
    first = evaluator_fingerprint(options, effective, Path())
    assert evaluator_fingerprint(options, effective, Path()) == first
    save(model, matrix(2))
    assert evaluator_fingerprint(options, effective, Path()) != first


async def test_a_model_is_loaded_once_while_its_files_are_the_same(embedder, model):
    first, second = await asyncio.gather(embedder(), embedder())
    assert first._model is second._model
    save(model, matrix(2))
    other = await embedder()
    assert other._model is not first._model
    assert other.embed_query("corn") != first.embed_query("corn")


async def test_threads_share_a_model(embedder):
    """The library sets the length of texts in the tokenizer, which is the same for all."""
    near = await embedder()
    texts = [f"{word} " * 600 + "banana " * 600 for word in WORDS[1:9]] * 4
    alone = [near.embed_query(text) for text in texts]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(10):
            assert list(pool.map(near.embed_query, texts)) == alone


async def test_the_event_loop_goes_on_meanwhile(embedder):
    near = await embedder()
    work = asyncio.create_task(near.aembed_documents(["mills grind corn " * 100] * 3000))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len(await work) == 3000
    assert turns > 3, "the loop was held up"


WATCHED = """
import asyncio, sys

FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "pickle.find_class")

def refuse(event, args):
    if event in FORBIDDEN:
        raise SystemExit(f"{event} {args}")

async def main():
    from pathlib import Path
    from millstream.workflow import Builder, load_config
    from millstream.workflow import langchain_embedders  # what it imports is not looked at
    sys.addaudithook(refuse)
    near = await Builder(load_config(Path("flow.yml"))).get_embedder("near")
    print(len(await near.aembed_query("mills")), len(near.embed_documents(["corn", "car"])))

asyncio.run(main())
"""


def test_neither_the_network_nor_a_pickle_is_touched(write, tmp_path):
    write(ENTRY)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("16 2\n", 0), done.stderr
    assert done.stderr == ""


async def test_a_folder_that_the_library_cannot_load(embedder, model, write):
    (model / "tokenizer.json").write_text("{}")
    check_config(load_config(write(ENTRY)))  # only loading tells
    with pytest.raises(ConfigError, match=r"embedders\.near: model2vec cannot load the model in model \("):
        await embedder()


async def test_validate_and_the_run_say_the_same_of_a_folder(write, embedder):
    said = []
    config = load_config(write(ENTRY.replace("model}}", "gone}}")))
    for call in (check_config, lambda config: Models(config).check_embedder("near", "x")):
        with pytest.raises(ConfigError) as raised:
            call(config)
        said.append(str(raised.value))
    with pytest.raises(ConfigError) as raised:
        await Builder(config).get_embedder("near")
    said.append(str(raised.value))
    assert len(set(said)) == 1
    assert said[0].startswith("embedders.near.model_name: there is no folder gone in /")


@pytest.mark.skipif(find_spec("sentence_transformers") is not None, reason="sentence-transformers is here")
def test_a_transformer_names_the_extra_it_needs(write, model):
    for file in model.iterdir():
        file.unlink()
    (model / "modules.json").write_text(str(TRANSFORMER).replace("'", '"'))
    (model / "model.safetensors").write_bytes(safetensors("bert.encoder"))
    with pytest.raises(MissingExtraError, match=r"model_name: the model in model needs the extra \[sent"):
        check_config(load_config(write(ENTRY)))


@pytest.mark.filterwarnings("default")  # of torch and its company
async def test_a_transformer_of_sentence_transformers(embedder, model, tmp_path, capfd):
    pytest.importorskip("sentence_transformers", reason="needs the extra [sentence-transformers]")
    reference = tiny_transformer(model, tmp_path / "plain")
    capfd.readouterr()
    near = await embedder()
    texts = ["mills grind corn", "streams turn wheels"]
    assert capfd.readouterr().err == ""
    np.testing.assert_allclose(near.embed_documents(texts), reference.encode(texts), rtol=1e-4, atol=1e-6)
    asked = reference.encode(["query: corn"])[0]
    np.testing.assert_allclose(await near.aembed_query("corn"), asked, rtol=1e-4, atol=1e-6)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert len({tuple(vector) for vector in pool.map(near.embed_query, ["corn"] * 40)}) == 1
    assert time.monotonic() - started < 60


def tiny_transformer(folder, plain):
    """A BERT of random weights that puts `query: ` before questions; gives it as its library loads it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", ":", *WORDS[1:]]
    plain.mkdir()
    (plain / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(plain)
    for file in folder.iterdir():
        file.unlink()
    inner = Transformer(str(plain))
    prompts = {"query": "query: ", "document": ""}
    modules = [inner, Pooling(16), Normalize()]
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(folder))
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
