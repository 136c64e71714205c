"""HTTP to one endpoint over the real things: passwords, keys, TLS, and what goes wrong between."""

import logging
import time
import traceback

import pytest

from millstream.deliver.http import HttpClient
from millstream.errors import RefusedError, UnreachableError

PASSWORD = "pass word:1"


@pytest.fixture
def client():
    made = []

    def make(endpoint, **options):
        made.append(HttpClient(endpoint, name="The server", extra="elasticsearch", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def status(client):
    return client.request("GET", "/_cluster/health").status


def test_a_password(client, guard, opensearch3, caplog):
    guarded = guard(opensearch3, basic=("user", PASSWORD))
    caplog.set_level(logging.DEBUG)

    assert status(client(guarded.url, username="user", password=PASSWORD)) == 200
    in_url = guarded.url.replace("://", "://user:pass%20word%3A1@")
    assert status(client(in_url)) == 200

    with pytest.raises(RefusedError) as caught:
        status(client(in_url.replace("word", "w")))
    assert str(caught.value) == (
        f"The server at {guarded.url} does not accept the password of user 'user' (401): "
        "correct `username` and `password`"
    )
    with pytest.raises(RefusedError, match="does not accept requests without credentials"):
        status(client(guarded.url))
    told = caplog.text + "".join(traceback.format_exception(caught.value))
    assert "pass%20" not in told
    assert PASSWORD not in told


def test_an_api_key(client, guard, opensearch3):
    guarded = guard(opensearch3, api_key="bWlsbDpzdHJlYW0=")

    assert status(client(guarded.url, api_key="bWlsbDpzdHJlYW0=")) == 200
    assert status(client(guarded.url, api_key="mill:stream")) == 200
    with pytest.raises(RefusedError, match=r"does not accept the API key \(401\): correct `api_key`"):
        status(client(guarded.url, api_key="another"))


def test_a_ca(client, guard, opensearch3, authority, tmp_path):
    guarded = guard(opensearch3, tls=True)

    assert status(client(guarded.url, ca_certs=str(authority.ca_file))) == 200
    assert status(client(guarded.url, verify_certs=False)) == 200
    for options in ({}, {"ca_certs": str(authority.other_ca_file)}):
        with pytest.raises(RefusedError) as caught:
            status(client(guarded.url, **options))
        assert str(caught.value).startswith(
            f"The server at {guarded.url} cannot be trusted: its certificate is not accepted ("
        )
        assert "name its CA in `ca_certs`" in str(caught.value)


def test_a_fingerprint(client, guard, opensearch3, authority):
    guarded = guard(opensearch3, tls=True)
    pin = authority.fingerprint

    assert status(client(guarded.url, ssl_assert_fingerprint=pin)) == 200
    with_colons = ":".join(pin[place : place + 2] for place in range(0, 64, 2)).upper()
    assert status(client(guarded.url, ssl_assert_fingerprint=with_colons)) == 200
    assert status(client(guarded.url, ssl_assert_fingerprint=authority.ca_fingerprint)) == 200
    with pytest.raises(RefusedError, match=f"has the fingerprint {pin}, not that of"):
        status(client(guarded.url, ssl_assert_fingerprint="0" * 64))


def test_a_ca_that_is_only_sent_along_is_no_proof(client, guard, opensearch3, authority, tmp_path):
    """Somebody between us and the server can send the certificate of its CA, too."""
    false = type(authority)(tmp_path)
    own, _ = split(false.certificate_file.read_text())
    false.certificate_file.write_text(own + authority.ca_file.read_text())
    guarded = guard(opensearch3)
    guarded._authority = false
    guarded.kill()
    guarded.start()

    assert status(client(guarded.url, ssl_assert_fingerprint=false.fingerprint)) == 200
    with pytest.raises(RefusedError, match="cannot be trusted: its certificate is not accepted"):
        status(client(guarded.url, ssl_assert_fingerprint=authority.ca_fingerprint))


def split(pem):
    end = "-----END CERTIFICATE-----\n"
    first, _, rest = pem.partition(end)
    return first + end, rest


def test_tls_where_there_is_none_and_none_where_there_is(client, guard, opensearch3):
    with pytest.raises(RefusedError, match="it does not speak TLS there: write http://"):
        status(client(opensearch3.url.replace("http:", "https:")))
    guarded = guard(opensearch3, tls=True)
    with pytest.raises(RefusedError, match="refuses what is sent"):
        status(client(guarded.url.replace("https:", "http:")))


def test_errors_of_the_network(client, toxiproxy, opensearch3):
    proxy = toxiproxy.proxy(opensearch3)
    asking = client(proxy.url, timeout_s=1)
    assert status(asking) == 200

    proxy.hang()
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="does not answer: nothing came within 1 s"):
        status(asking)
    assert time.monotonic() - begun < 2
    proxy.clear()
    assert status(asking) == 200

    proxy.reset()
    with pytest.raises(UnreachableError, match=r"does not answer: the connection broke \("):
        status(asking)
    proxy.clear()
    assert status(asking) == 200

    proxy.cut(200)
    with pytest.raises(UnreachableError, match="does not answer: the connection was closed without a whole"):
        status(asking)
    proxy.clear()
    assert status(asking) == 200


def test_a_connection_that_was_closed_while_it_was_idle(client, toxiproxy, opensearch3):
    proxy = toxiproxy.proxy(opensearch3)
    asking = client(proxy.url)
    assert status(asking) == 200
    proxy.disable()
    proxy.enable()
    assert status(asking) == 200


def test_what_a_server_says_is_told(client, opensearch3):
    with pytest.raises(RefusedError) as caught:
        client(opensearch3.url).request("GET", "/nothing")
    said = "has nothing there (404: no such index [nothing]): correct `endpoint`"
    assert str(caught.value) == f"The server at {opensearch3.url} {said}"
    answer = client(opensearch3.url).request("GET", "/nothing", passed={404})
    assert answer.status == 404
    assert b"no such index" in answer.body


def test_a_path_in_the_endpoint(client, opensearch3):
    asking = client(f"{opensearch3.url}/_cluster/")
    assert asking.request("GET", "/health").status == 200
    assert asking.url == f"{opensearch3.url}/_cluster"
