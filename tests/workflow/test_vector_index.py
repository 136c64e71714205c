"""The nearest vectors, against brute force; the files of an index, whole and torn."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from millstream.errors import InputError, StorageError
from millstream.workflow.documents import Document, matching, read_documents, split
from millstream.workflow.vector_index import VectorIndex

NUMBERS = st.integers(-4, 4).map(float)


def index_of(vectors, fingerprint="abc"):
    return VectorIndex.of([{"content": str(n)} for n in range(len(vectors))], [vectors], fingerprint)


def cosine(left, right):
    lengths = math.hypot(*left) * math.hypot(*right)
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / lengths if lengths else 0.0


@given(
    st.integers(1, 40).flatmap(lambda rows: arrays(np.float64, (rows, 5), elements=NUMBERS)),
    st.lists(NUMBERS, min_size=5, max_size=5),
    st.integers(1, 50),
)
def test_the_nearest_are_those_of_brute_force(vectors, query, top_k):
    found = index_of(vectors.tolist()).search(query, top_k)
    exact = sorted((cosine(row, query) for row in vectors.tolist()), reverse=True)[:top_k]
    assert [each.score for each in found] == pytest.approx(exact, abs=1e-6)
    for each in found:
        row = vectors[int(each.chunk["content"])]
        assert each.score == pytest.approx(cosine(row.tolist(), query), abs=1e-6)
    assert len({each.chunk["content"] for each in found}) == len(found)


def test_equal_ones_come_in_their_order():
    found = index_of([[1.0, 0.0]] * 6 + [[0.0, 1.0]]).search([2.0, 0.0], 3)
    assert [each.chunk["content"] for each in found] == ["0", "1", "2"]


def test_a_large_index_is_searched_in_pieces():
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(40_000, 8))
    query = rng.normal(size=8)
    exact = np.argsort(-(vectors @ query) / np.linalg.norm(vectors, axis=1))[:5]
    found = index_of(vectors).search(query.tolist(), 5)
    assert [int(each.chunk["content"]) for each in found] == exact.tolist()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([[[1.0, 2.0]], [[1.0]]], "the vectors of the index differ in length"),
        ([[[1.0, math.nan]]], "holds what is no number"),
        ([[[1.0, 2.0]]], "the index has 2 chunks and 1 vectors"),
    ],
)
def test_vectors_that_are_no_index(batches, message):
    with pytest.raises(InputError, match=message):
        VectorIndex.of([{}, {}], batches)


def test_a_question_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"has 3 numbers and those of the index 2; build the index again"):
        index_of([[1.0, 0.0]]).search([1.0, 0.0, 0.0], 1)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    index = index_of([[1.0, 2.0], [0.0, 0.0], [-3.0, 1.0]])
    index.save(tmp_path)
    loaded = VectorIndex.load(tmp_path)
    assert loaded.fingerprint == "abc"
    assert loaded.search([1.0, 1.0], 9) == index.search([1.0, 1.0], 9)
    index_of([[1.0]], "def").save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chunks-def.jsonl",
        "index.json",
        "vectors-def.npy",
    ]
    assert len(loaded.search([1.0, 1.0], 9)) == 3  # whoever reads the old one goes on


def test_a_loaded_index_is_not_read_into_memory(tmp_path):
    index_of(np.ones((20_000, 100), np.float32)).save(tmp_path)
    tracemalloc.start()
    try:
        loaded = VectorIndex.load(tmp_path)
        assert len(loaded.search([1.0] * 100, 3)) == 3
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # the vectors alone are 8 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("file", ["vectors-abc.npy", "chunks-abc.jsonl", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_torn_index_is_told(tmp_path, file, damage):
    index_of([[1.0, 2.0], [3.0, 4.0]]).save(tmp_path)
    path = tmp_path / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    with pytest.raises(InputError) as raised:
        VectorIndex.load(tmp_path)
    if file == "index.json" and damage == "gone":
        assert str(raised.value) == f"there is no index in {tmp_path}"
    else:
        assert str(path) in str(raised.value)
        assert "remove the folder to have it built again" in str(raised.value)


def test_an_index_that_could_run_code_is_not_loaded(tmp_path):
    index_of([[1.0, 2.0]]).save(tmp_path)
    path = tmp_path / "vectors-abc.npy"
    np.save(path, np.array([[{}, {}]], dtype=object), allow_pickle=True)
    head = tmp_path / "index.json"
    head.write_text(head.read_text().replace("136", str(path.stat().st_size)))
    with pytest.raises(InputError, match="cannot be read"):
        VectorIndex.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another index_dir"):
        index_of([[1.0]]).save(tmp_path / "file" / "index")


@given(
    st.text(st.sampled_from("aaaa. \n\t!"), max_size=300),
    st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))),
)
def test_chunks_hold_all_of_a_text(shape, sizes):
    size, overlap = sizes
    letters = map(chr, range(0x4E00, 0x9FFF))
    text = "".join(next(letters) if character == "a" else character for character in shape)
    before = 0
    for chunk in split(text, size, overlap):
        assert 0 < len(chunk) <= size
        assert chunk == chunk.strip()
        start = text.index(chunk, max(0, before - overlap))
        assert not text[before:start].strip(), "something between two chunks is lost"
        assert start + len(chunk) > before, "no progress"
        before = start + len(chunk)
    assert not text[before:].strip()


def test_chunks_end_at_sentences():
    text = "One is here. Two is there! Three?\nFour goes on and on and on and on."
    assert split(text, 27, 0) == [
        "One is here. Two is there!",
        "Three?\nFour goes on and on",
        "and on and on.",
    ]
    assert split(text, 27, 14)[1] == "Two is there! Three?\nFour"
    assert split("abcdefgh", 3, 0) == ["abc", "def", "gh"]
    assert split(" \n ", 3, 0) == []


def test_documents_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jsonl").write_text('{"text": "x", "source": "s", "page": 3}\n\n{"text": "y"}\n')
    paths = matching(["**/*.jsonl", "a.md", str(tmp_path / "a.md"), "*.md"])
    assert list(read_documents(paths)) == [
        Document("x", "s", {"page": 3}),
        Document("y", "sub/b.jsonl:3"),
        Document("text", "a.md"),
        Document("text", str(tmp_path / "a.md")),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"texts": 1}', r"d.jsonl:1 is no document|a document is an object with a 'text'"),
        (b"[1", r"d.jsonl:1 is not JSON"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_lines_that_are_no_documents(tmp_path, line, message):
    (tmp_path / "d.jsonl").write_bytes(line)
    with pytest.raises(InputError, match=message):
        list(read_documents([tmp_path / "d.jsonl"]))
