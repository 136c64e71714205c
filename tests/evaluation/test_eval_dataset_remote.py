"""Datasets at URLs, fetched from real servers; what is secret in a URL is nowhere to be read."""

import base64
import http.server
import os
import socket
import threading
import time

import pytest

from millstream.errors import InputError, MissingExtraError, UnreachableError
from millstream.evaluation.config import parse_eval
from millstream.evaluation.dataset import load_dataset
from millstream.evaluation.datasets import remote
from millstream.evaluation.datasets.remote import shown
from millstream.workflow.secrets import masked

from .packages import package

fsspec = package("fsspec")
package("aiohttp")

CSV = b"id,question,answer\n1,a,A\n2,b,B\n"


def load(url, **keys):
    return load_dataset(
        parse_eval({"general": {"dataset": {"_type": "csv", "file_path": url, **keys}}}).dataset
    )


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        given = self.headers.get("Authorization", "")
        if self.path.startswith("/private") and given != f"Basic {base64.b64encode(b'me:s3cr3tpw').decode()}":
            self.send_error(401, f"not for {given}")
        elif self.path.startswith("/signed") and "sig=s1gnature" not in self.path:
            self.send_error(403)
        elif self.path.startswith("/nothing"):
            self.send_error(404)
        elif self.path.startswith("/busy"):
            self.send_error(503)
        elif self.path.startswith("/cut"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(CSV)
        elif self.path.startswith("/slow"):
            time.sleep(30)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CSV)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(CSV)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port
        running.shutdown()


def test_files_of_any_driver(tmp_path, server):
    (tmp_path / "d.csv").write_bytes(CSV)
    with fsspec.open("memory://folder/d.csv", "wb") as file:
        file.write(CSV)
    expected = load(str(tmp_path / "d.csv"))
    for url in (f"file://{tmp_path}/d.csv", "memory://folder/d.csv", f"http://127.0.0.1:{server}/d.csv"):
        loaded = load(url)
        assert loaded.path == url
        assert (loaded.sha256, list(loaded.items)) == (expected.sha256, list(expected.items))


def test_a_chain_of_drivers(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("inside/d.csv", CSV)
    assert len(load(f"zip://inside/d.csv::file://{tmp_path}/d.zip").items) == 2


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    threading.Thread(target=(tmp_path / "pipe.csv").write_bytes, args=(CSV,), daemon=True).start()
    assert len(load(str(tmp_path / "pipe.csv")).items) == 2


def test_what_is_not_there(tmp_path, server):
    for url in (f"file://{tmp_path}/no.csv", "memory://no.csv", f"http://127.0.0.1:{server}/nothing.csv"):
        with pytest.raises(InputError, match=f"The dataset {url} does not exist"):
            load(url)
    with pytest.raises(InputError, match="fsspec knows no protocol 'nowhere'"):
        load("nowhere://d.csv")


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        (
            "http://127.0.0.1:9/d.csv",
            UnreachableError,
            "nothing answers at 127.0.0.1:9 (Connection refused). Start the server, or correct the address.",
        ),
        (
            "http://no-such-host.invalid/d.csv",
            UnreachableError,
            (
                "no host is called no-such-host.invalid. Correct the address, or see whether this machine has"
                " a network."
            ),
        ),
        (
            "https://127.0.0.1:{}/d.csv",
            UnreachableError,
            (
                "there is no TLS connection to 127.0.0.1:{} (wrong version number). Is it http:// and not"
                " https://? Else mend the server's certificate."
            ),
        ),
        (
            "http://127.0.0.1:{}/busy.csv",
            UnreachableError,
            (
                "its server cannot give it now (503 Service Unavailable). Try again later, or copy the file"
                " to this machine."
            ),
        ),
        (
            "http://127.0.0.1:{}/private.csv",
            InputError,
            (
                "its server does not let us in (401 Unauthorized). Put user and password, or a valid"
                " signature, into the URL, or copy the file to this machine."
            ),
        ),
        (
            "http://127.0.0.1:{}/cut.csv",
            UnreachableError,
            "its server broke the connection off. Try again, or copy the file to this machine.",
        ),
    ],
)
def test_what_a_server_says_is_told_in_a_sentence(server, url, kind, said):
    url = url.format(server)
    with pytest.raises(kind) as told:
        load(url)
    assert str(told.value) == f"The dataset {url} cannot be read: {said.format(server)}"


def test_an_address_that_the_server_does_not_know(server):
    url = f"http://127.0.0.1:{server}/nothing.csv"
    with pytest.raises(InputError) as told:
        load(url)
    assert str(told.value) == (
        f"The dataset {url} does not exist: its server answers 404 Not Found. Correct the address."
    )


class Cloud(fsspec.AbstractFileSystem):
    """A driver with exceptions of its own, as those of S3 and Hugging Face have."""

    protocol = "cloud"

    def _open(self, path, *args, **kwargs):
        if "secret" in path:
            raise PermissionError("Forbidden")
        try:
            socket.create_connection(("127.0.0.1", 9))
        except OSError:
            raise RuntimeError("no endpoint") from None


fsspec.register_implementation("cloud", Cloud, clobber=True)


def test_a_driver_that_hides_that_its_server_is_down():
    with pytest.raises(UnreachableError, match=r"d.csv cannot be read: RuntimeError: no endpoint\."):
        load("cloud://bucket/d.csv")


def test_a_server_that_does_not_let_us_read():
    words = r"cannot be read: PermissionError: Forbidden\. See which credentials the driver finds"
    with pytest.raises(InputError, match=words):
        load("cloud://secret/d.csv")


def test_a_server_that_says_nothing(server, monkeypatch):
    monkeypatch.setattr(remote, "_SILENCE_S", 0.5)
    with pytest.raises(UnreachableError, match=r"slow.csv cannot be read: nothing came for 0.5 s"):
        load(f"http://127.0.0.1:{server}/slow.csv")


def test_what_is_too_large(monkeypatch):
    monkeypatch.setattr(remote, "_MAX_BYTES", 10)
    with fsspec.open("memory://big.csv", "wb") as file:
        file.write(CSV)
    with pytest.raises(InputError, match="is larger than"):
        load("memory://big.csv")


def test_drivers_that_are_not_installed(monkeypatch):
    import sys

    for module in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for url, command in (
        ("s3://key:s3cr3t/pw@bucket/d.csv", "pip install s3fs"),
        ("gs://bucket/d.csv", "pip install gcsfs"),
        ("abfs://c@account/d.csv", "pip install adlfs"),
    ):
        with pytest.raises(InputError, match=f"driver that is not installed: {command}") as told:
            load(url)
        assert "s3cr3t" not in str(told.value)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"The dataset s3://b/d.csv needs the extra \[datasets\]"):
        load("s3://b/d.csv")


@pytest.mark.parametrize(
    ("url", "as_shown"),
    [
        ("https://h:8080/a/b@c.csv", "https://h:8080/a/b@c.csv"),
        ("https://me:pw@h/d.csv", "https://********@h/d.csv"),
        ("https://ghp_token@h/d.csv", "https://********@h/d.csv"),
        ("s3://KEY:se/cr+et@bucket/d.csv", "s3://********@bucket/d.csv"),
        ("https://h/d.csv?X-Amz-Signature=abc&versionId=3", "https://h/d.csv?********"),
        ("zip://x.csv::s3://K:S@b/d.zip", "zip://x.csv::s3://********@b/d.zip"),
    ],
)
def test_a_url_as_it_may_be_shown(url, as_shown):
    assert shown(url) == as_shown


def test_a_configuration_hides_what_is_secret_in_a_url():
    assert masked("https://h/d.csv?X-Amz-Signature=abc&versionId=3&sv=1&sig=x%2Fy") == (
        "https://h/d.csv?X-Amz-Signature=********&versionId=3&sv=1&sig=********"
    )
    assert masked("s3://KEY:se/cr+et@bucket/d.csv") == "s3://KEY:********@bucket/d.csv"
    assert masked("https://ghp_token@h/d.csv") == "https://********@h/d.csv"
    for harmless in ("http://127.0.0.1:80/a@b", "https://h/d?a=b", "is it? token=x", "git@host:path"):
        assert masked(harmless) == harmless


@pytest.mark.parametrize(
    ("path", "secret", "how"),
    [
        ("me:s3cr3tpw@127.0.0.1:{}/private.csv", "s3cr3tpw", "config"),
        ("127.0.0.1:{}/signed.csv?sig=s1gnature", "s1gnature", "config"),
        ("127.0.0.1:{}/signed.csv?sig=s1gnature", "s1gnature", "option"),
        ("127.0.0.1:{}/signed.csv?sig=s1gnature", "s1gnature", "override"),
        ("127.0.0.1:{}/signed.csv?sig=wr0ngsig", "wr0ngsig", "config"),
    ],
)
def test_secrets_of_a_url_are_written_nowhere(runs, server, path, secret, how):
    url = f"http://{path.format(server)}"
    runs.data(("x", "x", "X"))
    runs.config(**({"dataset": {"_type": "csv", "file_path": url}} if how == "config" else {}))
    options = {
        "option": ("--dataset", url),
        "override": ("--override", "eval.general.dataset.file_path", url),
    }
    done = runs.run(*options.get(how, ()))
    assert done.returncode == (2 if secret.startswith("wr0ng") else 0), done.stderr
    assert secret not in done.stdout + done.stderr
    if secret.startswith("wr0ng"):
        assert "403" in done.stderr
        assert not runs.out.exists()
        return
    assert [row["answer"] for row in runs.json("workflow_output.json")] == ["A", "B"]
    for file in runs.out.rglob("*"):
        assert secret.encode() not in file.read_bytes(), file
