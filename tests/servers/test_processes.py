"""Servers end with whoever started them, whatever that end is, and say why they did not start."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import cache, jdk, prepare, search
from tests.servers.conftest import prepared
from tests.servers.errors import NotPrepared, ServerError
from tests.servers.server import HOST, Server, free_port, wait_until

# A server that has a child: both hold the port open.
FORKING = """
import os, socket, sys, time
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.fork()
print("listening", flush=True)
while True:
    listening.accept()[0].close()
"""

HOLDING = """
import multiprocessing, pathlib, sys, time
from tests.servers.test_processes import Forking

def lives_on():
    time.sleep(3)

server = Forking(pathlib.Path(sys.argv[1])).start()
if sys.argv[2] == "with a child":
    multiprocessing.get_context("fork").Process(target=lives_on).start()
print(server.port, flush=True)
time.sleep(60)
"""


class Forking(Server):
    def __init__(self, folder: Path) -> None:
        super().__init__("forking", folder, start_s=10)

    def command(self):
        return [sys.executable, "-c", FORKING, str(self.port)]

    def ready(self):
        return listens(self.port)


class Failing(Forking):
    def command(self):
        return [sys.executable, "-c", "raise SystemExit('there is no configuration')"]


class Silent(Forking):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.start_s = 1

    def command(self):
        return [sys.executable, "-uc", "import time; print('still loading'); time.sleep(60)"]


def listens(port):
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("child", ["with a child", "alone"])
def test_a_killed_test_process_leaves_no_server(tmp_path, child):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path), child],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cache.CHECKOUT,
    )
    with holder:
        port = int(holder.stdout.readline())
        assert listens(port)
        holder.send_signal(signal.SIGKILL)
        wait_until("the server is gone", lambda: not listens(port), 2)


def test_a_paused_server_ends_too(tmp_path):
    with Forking(tmp_path) as server:
        server.pause()
        port = server.port
    wait_until("it does not listen", lambda: not listens(port), 2)


def test_children_end_with_the_server(tmp_path):
    server = Forking(tmp_path).start()
    wait_until("both run", lambda: server.log().count("listening") == 2, 5)

    server.kill()

    wait_until("neither listens", lambda: not listens(server.port), 2)


def test_one_that_ends_while_it_starts_says_why(tmp_path):
    with pytest.raises(
        ServerError, match=r"forking ended while it was starting[^$]*there is no configuration"
    ):
        Failing(tmp_path).start()


def test_one_that_does_not_come_up_is_ended_in_time(tmp_path):
    server = Silent(tmp_path)
    begun = time.monotonic()
    with pytest.raises(ServerError, match=r"forking answers: not within 1 s[^$]*still loading"):
        server.start()
    assert time.monotonic() - begun < 5
    assert not server.running


def test_a_free_port_is_free():
    with socket.create_server((HOST, free_port())) as taken:
        assert taken.getsockname()[1] in range(20_000, 32_000)


def test_what_is_not_prepared_is_skipped_with_a_reason_and_required_in_ci(monkeypatch, tmp_path):
    monkeypatch.setenv("MILLSTREAM_TEST_SERVERS", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("MILLSTREAM_TEST_SERVERS_REQUIRED", raising=False)

    def get():
        return search.SearchServer("opensearch3", tmp_path / "server")

    with pytest.raises(pytest.skip.Exception, match=r"opensearch3 is not prepared.*make test-servers"):
        prepared(get)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(NotPrepared):
        prepared(get)
    monkeypatch.delenv("CI")
    monkeypatch.setenv("MILLSTREAM_TEST_SERVERS_REQUIRED", "1")
    with pytest.raises(NotPrepared):
        prepared(get)


def test_a_preparation_that_broke_off_goes_on_and_one_of_another_recipe_starts_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("MILLSTREAM_TEST_SERVERS", str(tmp_path))

    def broken(home):
        (home / "first").touch()
        raise NotPrepared("no network")

    with pytest.raises(NotPrepared, match="no network"):
        cache.prepare("thing", "one", broken)
    with pytest.raises(
        NotPrepared, match=r"thing is not prepared \(no network\)\. Prepare and test with: make test-servers"
    ):
        cache.prepared("thing", "one")

    assert cache.prepare("thing", "one", lambda home: (home / "second").touch())
    assert sorted(file.name for file in cache.prepared("thing", "one").glob("[!.]*")) == ["first", "second"]
    assert not cache.prepare("thing", "one", broken)

    with pytest.raises(NotPrepared, match="thing is not prepared"):
        cache.prepared("thing", "two")
    assert cache.prepare("thing", "two", lambda home: (home / "third").touch())
    assert [file.name for file in cache.prepared("thing", "two").glob("[!.]*")] == ["third"]


PREPARING = """
import pathlib, time
from tests.servers import cache

def make(home):
    with (home / "made").open("a") as made:
        made.write("begun ")
        made.flush()
        time.sleep(1)
        made.write("done ")

print(cache.prepare("thing", "one", make))
"""


def test_two_processes_prepare_once(tmp_path):
    environment = {**os.environ, "MILLSTREAM_TEST_SERVERS": str(tmp_path)}
    command = [sys.executable, "-c", PREPARING]
    two = [
        subprocess.Popen(command, env=environment, cwd=cache.CHECKOUT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert sorted(each.communicate()[0].strip() for each in two) == ["False", "True"]
    assert (tmp_path / "thing" / "made").read_text() == "begun done "


def test_the_oldest_jdk_that_fits_is_taken(monkeypatch, tmp_path):
    for version in (98, 97, 99):
        home = tmp_path / f"jdk-{version}"
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "javac").touch()
        (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}.0.1"\n')
        monkeypatch.setenv(f"JAVA_HOME_{version}_X64", str(home))

    assert jdk.find(97).name == "jdk-97"
    assert jdk.find(98).name == "jdk-98"
    with pytest.raises(
        NotPrepared, match=r"A JDK of version 100 or newer is needed; there: .*97, 98, 99\. .*JAVA_HOME"
    ):
        jdk.find(100)


def test_preparing_says_what_is_missing_and_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MILLSTREAM_TEST_SERVERS", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert prepare.main(["go", "opensearch2"]) == 2
    printed = capsys.readouterr().out
    assert "go: go is needed and not on the path: install Go 1.24 or newer" in printed
    assert "opensearch2: mvn is needed and not on the path: install Maven" in printed
