"""What is seen to be wrong with an endpoint without the network, and that no message shows a secret."""

import base64
import re
import ssl
from pathlib import Path

import pytest
import trustme

from millstream.deliver.endpoint import redacted
from millstream.deliver.http import HttpClient
from millstream.errors import ConfigError, UnreachableError
from tests.deliver.receivers import http_receiver

NOBODY = "http://127.0.0.1:9"


def client(endpoint=NOBODY, **options):
    return HttpClient(endpoint, name="the server", extra="elasticsearch", **options)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        (None, "is empty"),
        ("localhost:9200", "begins with http:// or https://"),
        ("localhost", "begins with http:// or https://"),
        ("ftp://localhost", "begins with http:// or https://"),
        ("http://", "names no server: write its host, as in http://localhost:9200"),
        ("http:///path", "names no server"),
        ("http://localhost:port", "its host or port is wrong"),
        ("http://localhost:99999", "its host or port is wrong"),
        ("http://localhost:0", "host, port or path is wrong"),
        ("http://[::1", "its host or port is wrong"),
        ("http://a b", "host, port or path is wrong"),
        ("http://user:pass@", "names no server"),
        ("http://host/a b", "host, port or path is wrong"),
        ("http://host?key=secret", "leave out"),
        ("http://host#part", "leave out"),
    ],
)
def test_an_endpoint_that_is_none(endpoint, said):
    with pytest.raises(ConfigError, match="`endpoint`") as caught:
        client(endpoint)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://elastic:pass-word@localhost:port",
        "elastic:pass-word@localhost:9200",
        "htp://elastic:pass-word@localhost:9200",
        "http://elastic:pass-word@[::1",
        "http://elastic:p/pass-word@localhost",
        "http://elastic:pass-word@local host",
        "http://elastic:pass-word@localhost?x=pass-word",
    ],
)
def test_no_message_shows_the_password(endpoint):
    with pytest.raises(ConfigError) as caught:
        client(endpoint)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://localhost:9200", "http://localhost:9200"),
        ("https://elastic:pass-word@es.example.com/", "https://es.example.com"),
        ("http://u@127.0.0.1:9/prefix/", "http://127.0.0.1:9/prefix"),
        ("http://[::1]:9200", "http://[::1]:9200"),
        ("HTTP://LocalHost:9", "http://localhost:9"),
    ],
)
def test_what_is_shown(endpoint, shown):
    assert client(endpoint, password="pass-word" if "u@" in endpoint else None).url == shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"username": "elastic"}, "`username` is given without `password`"),
        ({"username": "elastic", "password": ""}, "is its environment variable empty"),
        ({"password": "x"}, "`password` is given without `username`"),
        ({"username": "a:b", "password": "x"}, "colon"),
        ({"username": "elastic", "password": "x", "api_key": "y"}, "leave one out"),
        ({"api_key": "x", "bearer_token": "y"}, "leave one out"),
        ({"api_key": "line\nbreak"}, "cannot stand in a header"),
        ({"bearer_token": "é"}, "cannot stand in a header"),
        ({"headers": {"bad name": "x"}}, "'bad name' is no name of a header"),
        ({"headers": {"name": "line\r\nbreak"}}, "cannot stand in a header"),
        ({"headers": {"name": 5}}, "must be text, not int"),
        ({"ca_certs": "/no/such/file.pem"}, "`ca_certs`: /no/such/file.pem cannot be read"),
        ({"ca_certs": __file__}, "holds no usable certificate"),
        ({"ca_certs": str(Path(__file__).parent)}, "holds no usable certificate"),
        ({"client_cert": "/no/such/file.pem"}, "`client_cert`: /no/such/file.pem cannot be read"),
        ({"client_key": __file__}, "without `client_cert`"),
        ({"ssl_assert_fingerprint": "ab:cd"}, "64 hexadecimal digits"),
    ],
)
@pytest.mark.parametrize("endpoint", [NOBODY, "https://127.0.0.1:9"])
def test_options_that_are_wrong(endpoint, options, said):
    with pytest.raises(ConfigError) as caught:
        client(endpoint, **options)
    assert said in str(caught.value)
    for secret in ("line", "é", "y"):
        assert not re.search(rf"\b{secret}\b", str(caught.value))


def test_a_user_in_the_endpoint_and_beside_it():
    with pytest.raises(ConfigError, match="`endpoint` and `username` both name a user"):
        client("http://elastic:pass-word@localhost", username="elastic", password="x")


def test_percent_signs_in_a_password():
    sent = client("http://el%40stic:p%3Aw%2F@localhost")._headers["authorization"]
    assert base64.b64decode(sent.partition(" ")[2]) == b"el@stic:p:w/"


def test_an_api_key_as_id_and_key():
    assert client(api_key="id:key")._headers["authorization"] == "ApiKey aWQ6a2V5"
    assert client(api_key="aWQ6a2V5")._headers["authorization"] == "ApiKey aWQ6a2V5"


def test_nobody_there():
    with pytest.raises(UnreachableError) as caught:
        client("http://elastic:pass-word@127.0.0.1:9").request("GET", "/")
    assert str(caught.value) == "the server at http://127.0.0.1:9 does not answer: connection refused"


def test_no_such_host():
    with pytest.raises(UnreachableError) as caught:
        client("http://no-such-host.invalid").request("GET", "/")
    assert str(caught.value).endswith("does not answer: no address is known for 'no-such-host.invalid'")


@pytest.mark.parametrize("name", ["ca.pem", "a name that is none of OpenSSL's.txt"])
def test_a_folder_of_certificates_to_trust(tmp_path, name):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / name)
    authority.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "folder").mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with http_receiver(context) as receiver:
        client = HttpClient(receiver.url, name="it", extra="otlp", ca_certs=str(tmp_path))
        assert client.request("POST", "/", b"").status == 200
        client.close()


def test_a_secret_within_another_leaves_no_part_of_it():
    assert redacted("no flour-in-a-sack, no flour", ["flour", "Bearer flour-in-a-sack", None]) == (
        "no [redacted], no [redacted]"
    )
