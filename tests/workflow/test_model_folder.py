"""Folders with embedding models: which kind, and what is said of those that hold none or half of one."""

import json

import pytest

from millstream.errors import ConfigError
from millstream.workflow.model_folder import model_folder

STATIC = [{"type": "sentence_transformers.models.StaticEmbedding", "path": "."}]
TRANSFORMER = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
]


def safetensors(*names):
    """A file of the format, by its definition, with one number a tensor."""
    tensors = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [at * 4, at * 4 + 4]}
        for at, name in enumerate(names)
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4 * len(names))


@pytest.fixture
def folder(tmp_path):
    """Writes files into a folder `model` and gives it."""

    def write(modules=None, **files):
        root = tmp_path / "model"
        root.mkdir(exist_ok=True)
        if modules is not None:
            (root / "modules.json").write_text(json.dumps(modules))
        for name, content in files.items():
            path = root / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return root

    return write


def test_static_models_in_the_forms_of_model2vec_and_sentence_transformers(folder):
    plain = model_folder(folder(model_dot_safetensors=safetensors("embeddings", "mapping")), "x")
    assert (plain.is_static, plain.is_normalized) == (True, False)
    normal = [*STATIC, {"type": "sentence_transformers.models.Normalize", "path": "1_Normalize"}]
    assert model_folder(folder(normal), "x").is_normalized


def test_a_static_model_below_its_folder(folder):
    modules = [{"type": "sentence_transformers.models.StaticEmbedding", "path": "0_StaticEmbedding"}]
    root = folder(modules, **{"0_StaticEmbedding__model_dot_safetensors": safetensors("embedding.weight")})
    found = model_folder(root, "x")
    assert found.is_static
    assert found.parts == (root, root / "0_StaticEmbedding")


def test_a_static_model_with_further_layers_is_not_for_model2vec(folder):
    dense = [*STATIC, {"type": "sentence_transformers.models.Dense", "path": "1_Dense"}]
    weights = safetensors("linear.weight")
    root = folder(
        dense,
        model_dot_safetensors=safetensors("embedding.weight"),
        **{"1_Dense__model_dot_safetensors": weights},
    )
    assert not model_folder(root, "x").is_static


def test_a_transformer(folder):
    weights = safetensors("embeddings.word_embeddings.weight")
    root = folder(
        TRANSFORMER,
        model_dot_safetensors=weights,
        pytorch_model_dot_bin=b"a pickle that is not read",
        **{"1_Pooling__config_dot_json": b"{}"},
    )
    found = model_folder(root, "x")
    assert (found.is_static, found.is_normalized) == (False, True)
    assert found.parts == (root, root / "1_Pooling")


@pytest.mark.parametrize(
    ("modules", "files", "words"),
    [
        (
            None,
            {},
            "there is no embedding model in FOLDER: no model.safetensors. Name the folder that holds it",
        ),
        (None, {"onnx__model_dot_onnx": b"x"}, "there is no embedding model in FOLDER"),
        (
            TRANSFORMER,
            {"pytorch_model_dot_bin": b"x"},
            "FOLDER holds its weights as a pickle only (pytorch_model.bin), and reading that can run code",
        ),
        (
            [*STATIC, {"type": "sentence_transformers.models.Dense", "path": "1_Dense"}],
            {
                "model_dot_safetensors": safetensors("embedding.weight"),
                "1_Dense__pytorch_model_dot_bin": b"x",
            },
            "FOLDER/1_Dense holds its weights as a pickle only",
        ),
        (
            None,
            {"model_dot_safetensors": safetensors("bert.encoder"), "config_dot_json": b"{}"},
            "FOLDER holds a model, but no modules.json, which says how the vectors of its tokens become one",
        ),
        (
            STATIC,
            {"model_dot_safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"},
            "FOLDER/model.safetensors is a pointer of Git LFS, not the weights; fetch them with",
        ),
        (
            STATIC,
            {"model_dot_safetensors": safetensors("embeddings")[:-2]},
            "bytes; fetch the model again",
        ),
        (
            STATIC,
            {"model_dot_safetensors": b"\x80\x04\x95pickled"},
            "FOLDER/model.safetensors is not in the format safetensors, or damaged; fetch the model again",
        ),
        (STATIC, {"model_dot_safetensors": b""}, "is not in the format safetensors, or damaged"),
        (STATIC, {"model_dot_safetensors": safetensors()}, "is not in the format safetensors, or damaged"),
        ({"a": 1}, {}, "FOLDER/modules.json is damaged; fetch the model again"),
        (
            [{"type": "custom_st.Transformer", "path": ""}],
            {"model_dot_safetensors": safetensors("a")},
            "the model in FOLDER needs Python code of its own (custom_st.Transformer), which is not run",
        ),
        (
            [{"type": "sentence_transformers.models.Dense", "path": "../.."}],
            {"model_dot_safetensors": safetensors("a")},
            "FOLDER/modules.json names a folder outside: ../..",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, modules, files, words):
    root = folder(modules, **files)
    with pytest.raises(ConfigError) as raised:
        model_folder(root, "embedders.near.model_name")
    message = str(raised.value)
    assert message.startswith("embedders.near.model_name: ")
    assert words.replace("FOLDER", str(root)) in message


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    wanted = {
        "file": "file is a file; name the folder that holds the model",
        "gone": f"there is no folder gone in {tmp_path}",
        "/gone/far": "there is no folder /gone/far",
        "BAAI/bge-small-en-v1.5": "nothing is downloaded; fetch the model once"
        " (hf download BAAI/bge-small-en-v1.5 --local-dir BAAI/bge-small-en-v1.5)",
    }
    for name, words in wanted.items():
        with pytest.raises(ConfigError) as raised:
            model_folder(type(tmp_path)(name), "x")
        assert words in str(raised.value)


def test_a_folder_in_the_cache_of_hugging_face_is_named_by_the_model(tmp_path):
    root = tmp_path / "models--minishlab--potion-base-8M" / "snapshots" / "0123abc"
    root.mkdir(parents=True)
    (root / "model.safetensors").write_bytes(safetensors("embeddings"))
    assert model_folder(root, "x").name == "minishlab/potion-base-8M"


def test_the_digest_tells_any_file_that_makes_vectors_and_no_other(folder):
    root = folder(STATIC, model_dot_safetensors=safetensors("embeddings"), tokenizer_dot_json=b"{}")
    first = model_folder(root, "x").digest()
    (root / "README.md").write_text("about it")
    assert model_folder(root, "x").digest() == first
    (root / "tokenizer.json").write_text("{ }")
    assert model_folder(root, "x").digest() != first
