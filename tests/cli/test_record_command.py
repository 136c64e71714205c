"""`millstream record`: the program goes on as if nobody looked, and what it did is there."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from random import Random

import pytest

import millstream.record.startup
from millstream import Span, SpanKind, Status, open_store
from millstream.cli.record_summary import self_time_ns
from millstream.profiler.bottlenecks import self_time
from millstream.store.table import SpanTable
from tests.cli.recording import ASK, RECORD, STEPS, last_line, record, write

pytestmark = pytest.mark.usefixtures("place")
STARTUP = Path(millstream.record.startup.__file__).parent


# What is recorded


def test_a_program_with_the_openai_sdk(home, spans):
    program = write("app.py", ASK)
    result = record(sys.executable, program, "hi", "and then?", "break it")
    assert result.returncode == 1
    assert result.stdout == "one two three\none two three\n"
    assert [(span.kind, span.name, span.status.value) for span in spans()] == [
        (SpanKind.LLM, "able", "ok"),
        (SpanKind.LLM, "able", "ok"),
        (SpanKind.LLM, "able", "error"),
    ]
    given = sum(span.usage.input_tokens for span in spans() if span.usage)
    assert last_line(result) == (
        f"millstream: 3 spans, 3 LLM calls (1 failed); {given} tokens in, 6 out; "
        f"100 % of the time in able (LLM); look closer: millstream profile {home}"
    )


def test_a_program_with_langchain(spans):
    program = """
        from langchain_openai import ChatOpenAI
        from langchain_core.tools import tool

        @tool
        def search(query: str) -> str:
            "Looks it up."
            return ChatOpenAI(model="able").invoke(query).text

        print(search.invoke({"query": "a mill"}))
    """
    result = record(sys.executable, write("app.py", program))
    assert (result.returncode, result.stdout) == (0, "one two three\n")
    tool, call = spans()
    assert (tool.kind, tool.name, call.kind, call.name) == (SpanKind.TOOL, "search", SpanKind.LLM, "able")
    assert call.parent_id == tool.span_id
    assert "2 spans, 1 LLM call; " in last_line(result)
    assert re.search(r"\d+ % of the time in search \(TOOL\), \d+ % in able \(LLM\); ", last_line(result))


def test_a_program_that_instruments_itself_is_recorded_once(spans):
    program = write(
        "app.py", "import millstream\nmillstream.instrument()\n" + ASK + "millstream.instrument()\n"
    )
    assert record(sys.executable, program, "hi").returncode == 0
    assert [span.kind for span in spans()] == [SpanKind.LLM]


def test_the_integration_of_another_package(spans, monkeypatch):
    """By its entry point, whose framework is none that we know."""
    info = Path("site/acme-1.0.dist-info")
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[millstream.integrations]\nacme = acme_hooks:framework\n")
    Path("site/acme.py").write_text("def call():\n    return 42\n")
    Path("site/acme_hooks.py").write_text(
        textwrap.dedent("""
        import millstream
        from millstream.record.integrations.frameworks import Framework

        framework = Framework("acme", "acme_hooks")

        def install():
            import acme
            acme.call = millstream.track_function(acme.call)

        def uninstall(): ...
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(Path("site").absolute()))
    result = record(sys.executable, "-c", "import acme; print(acme.call())")
    assert (result.returncode, result.stdout) == (0, "42\n")
    assert [span.name for span in spans()] == ["call"]


def test_every_child_process_is_recorded(spans):
    program = """
        import multiprocessing, os, subprocess, sys
        import millstream

        def work(name):
            with millstream.start_span(name):
                pass

        if __name__ == "__main__":
            work("main")
            for way in ("fork", "spawn", "forkserver"):
                process = multiprocessing.get_context(way).Process(target=work, args=(way,))
                process.start()
                process.join()
            with multiprocessing.Pool(2) as pool:
                pool.map(work, ["pool"])
            subprocess.run([sys.executable, "-c", "import app; app.work('subprocess')"], check=True)
            os.chdir("/")
            if os.fork() == 0:
                work("os.fork")
                os._exit(0)
            os.wait()
            subprocess.run([sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import app; "
                            "app.work('grandchild')", os.path.dirname(os.path.abspath(__file__))], check=True)
    """
    result = record(sys.executable, write("app.py", program))
    assert result.returncode == 0, result.stderr
    names = {span.name for span in spans()}
    assert names == {"main", "fork", "spawn", "forkserver", "pool", "subprocess", "os.fork", "grandchild"}
    assert last_line(result).startswith("millstream: 8 spans, 0 LLM calls; ")


def test_a_program_that_is_killed(spans):
    program = """
        import os, signal, threading
        import openai

        client = openai.OpenAI(max_retries=0)
        messages = [{"role": "user", "content": "hi"}]
        client.chat.completions.create(model="able", messages=messages)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        client.chat.completions.create(model="slow", messages=messages)
    """
    result = record(sys.executable, write("app.py", program))
    assert result.returncode == -signal.SIGKILL
    assert [span.status for span in spans()] == [Status.OK, Status.INTERRUPTED]
    assert last_line(result).startswith("millstream: 2 spans (1 interrupted), 2 LLM calls; ")


def test_another_recording_to_the_same_home_is_not_counted(home):
    program = "import subprocess, sys; subprocess.run([sys.executable, 'steps.py'], env=other)"
    write("steps.py", STEPS)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MILLSTREAM_RECORD")}
    result = record(sys.executable, "-c", f"other = {environment!r}\n{program}\n{STEPS}")
    assert len(list(open_store(home).spans())) == 6
    assert last_line(result).startswith("millstream: 3 spans, ")


def test_a_recording_inside_a_recording_counts_for_both():
    result = record(*RECORD, "--", sys.executable, write("steps.py", STEPS))
    inner, outer = result.stderr.splitlines()
    assert inner == outer
    assert inner.startswith("millstream: 3 spans, ")


def test_the_name(monkeypatch):
    show = "import os; print(os.environ['MILLSTREAM_NAME'])"
    result = record(sys.executable, "-c", show + STEPS, options=["--name", "the bot"])
    assert result.stdout == "the bot\n"
    assert last_line(result).startswith("millstream: the bot: 3 spans, ")


def test_the_home_is_the_same_wherever_the_program_goes(monkeypatch, place):
    monkeypatch.delenv("MILLSTREAM_HOME")
    Path("elsewhere").mkdir()
    result = record(sys.executable, "-c", "import os; os.chdir('elsewhere')\n" + STEPS)
    assert last_line(result).endswith("; look closer: millstream profile .millstream")
    assert len(list(open_store(place / ".millstream").spans())) == 3


# The program goes on as if nobody looked


def test_what_a_program_sees_of_it():
    program = """
        import json, os, sys
        names = ("PYTHONPATH", "MILLSTREAM_HOME", "MILLSTREAM_RECORD")
        print(json.dumps({
            "path": sys.path, "argv": sys.argv, "flags": list(sys.flags), "file": __file__,
            "modules": sorted(sys.modules),
            "environment": {name: os.environ[name] for name in os.environ if name not in names},
        }))
    """
    command = [sys.executable, write("app.py", program), "a", "--", "--debug", "-x"]
    bare = json.loads(subprocess.check_output(command))
    seen = json.loads(record(*command).stdout)
    assert set(seen.pop("modules")) ^ set(bare.pop("modules")) <= {"atexit"}
    assert seen == bare


@pytest.mark.parametrize(
    "command",
    [
        ["app.py"],
        ["-m", "app", "model"],
        ["-X", "dev", "app.py", "thread"],
        ["-c", "import app"],
        ["app.py", "exit"],
        ["app.py", "broken"],
        ["app.py", "group"],
        ["nosuch.py"],
        ["-m", "nosuch"],
        ["-c", "import sys; print(sys.stdin.read()); raise KeyboardInterrupt"],
    ],
    ids=" ".join,
)
def test_output_exit_code_and_traceback_are_the_same(command):
    program = """
        import sys, threading

        def call():
            import openai
            message = [{"role": "user", "content": "break it"}]
            openai.OpenAI(max_retries=0).chat.completions.create(model="able", messages=message)

        print(sys.stdin.read())
        print("on stderr", file=sys.stderr)
        match sys.argv[1:]:
            case ["model"]:
                call()
            case ["thread"]:
                thread = threading.Thread(target=call, name="worker")
                thread.start()
                thread.join()
            case ["group"]:
                try:
                    call()
                except Exception as error:
                    raise ExceptionGroup("several", [error, ValueError()]) from error
            case ["exit"]:
                sys.exit("a last word")
            case ["broken"]:
                sys.path.insert(0, "broken")
                import openai
            case _:
                1 / 0
    """
    write("app.py", program)
    Path("broken/openai").mkdir(parents=True)
    write("broken/openai/__init__.py", "import json\njson.loads('{')\n")
    bare = subprocess.run([sys.executable, *command], input=b"typed", capture_output=True, check=False)
    seen = record(sys.executable, *command, input=b"typed", text=False)
    said = seen.stderr.splitlines(keepends=True)
    assert b"".join(said[:-1]).decode() == bare.stderr.decode()
    assert said[-1].startswith(b"millstream: ")
    assert (seen.stdout, seen.returncode) == (bare.stdout, bare.returncode)


@pytest.mark.parametrize("code", [0, 1, 3, 42, 255])
def test_the_exit_code_is_the_programs(code):
    assert record("sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL", "SIGABRT", "SIGSEGV", "SIGPIPE", "SIGUSR1"])
def test_an_end_by_a_signal_is_the_same_end(name):
    number = getattr(signal, name)
    assert record("sh", "-c", f"kill -{number:d} $$").returncode == -number


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_a_signal_to_us_is_for_the_program(name):
    program = f"""
        import signal, sys, time
        signal.signal(signal.{name}, lambda number, frame: sys.exit(f"{{number}} came"))
        print("ready", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [*RECORD, "--", sys.executable, write("app.py", program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith(f"{getattr(signal, name):d} came\nmillstream: ")


def test_a_pipe_that_is_closed_ends_the_program():
    script = f"{shlex.join([*RECORD, '--', 'yes'])} | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == f"y\n{128 + signal.SIGPIPE}\n"


def test_ignored_signals_and_open_files_are_inherited():
    script = f"trap '' INT HUP; exec 7<app.py; {shlex.join([*RECORD, '--', sys.executable, 'app.py'])}"
    program = """
        import os, signal
        print(*(signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGHUP)))
        print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), os.read(7, 7))
    """
    write("app.py", program)
    assert subprocess.check_output(["sh", "-c", script], text=True) == "True True\n0 b'\\nimport'\n"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["nosuch"], 127, "there is no command nosuch on PATH"),
        (["./nosuch"], 127, "./nosuch is not there"),
        (["app.py"], 127, "to run the script: python app.py"),
        (["./app.py"], 126, "./app.py cannot be executed: Permission denied"),
        (["./bare.py"], 126, "for a Python script: python SCRIPT"),
        (["./lost.py"], 126, "its first line names a program that is not there"),
        (["."], 126, "cannot be executed"),
        ([], 2, "Missing argument 'COMMAND...'"),
    ],
)
def test_what_cannot_be_run(command, code, said):
    write("app.py", "print('never')")
    for name, text in (("bare.py", "print('never')\n"), ("lost.py", "#!/nowhere/python\n")):
        Path(name).write_text(text)
        Path(name).chmod(0o700)
    result = record(*command)
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_options_after_the_command_are_the_commands():
    show = "import sys; print(sys.argv[1:])"
    wanted = "['--debug', '--name', 'x', '--']\n"
    assert record(sys.executable, "-c", show, "--debug", "--name", "x", "--").stdout == wanted
    command = [*RECORD, sys.executable, "-c", show, "--debug", "--name", "x", "--"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == wanted


def test_no_file_of_ours_is_left(tmp_path_factory, monkeypatch, place):
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("MILLSTREAM_HOME")
    record(sys.executable, "-c", "")
    record("nosuch")
    assert (list(folder.iterdir()), list(place.iterdir())) == ([], [])


# The start of Python


def test_a_sitecustomize_of_the_users_still_runs(monkeypatch):
    """Also one that fails; and a `usercustomize`, by a Python that allows one."""
    Path("site").mkdir()
    program = """
        import os, sys
        if sys.orig_argv[1] == "-c":
            print("site", __name__)
            1 / int(os.environ["OK"])
    """
    write("site/sitecustomize.py", program)
    write("site/usercustomize.py", "print('user')")
    monkeypatch.setenv("PYTHONPATH", str(Path("site").absolute()))
    python = getattr(sys, "_base_executable", sys.executable)
    show = "import sys; print(sys.path); print(sys.modules['sitecustomize'].__file__)"
    for ok in ("1", "0"):
        monkeypatch.setenv("OK", ok)
        bare = subprocess.run([python, "-c", show], capture_output=True, text=True, check=False)
        seen = record(python, "-c", show)
        assert "site sitecustomize" in bare.stdout
        assert (seen.stdout, seen.returncode) == (bare.stdout, bare.returncode)
        assert seen.stderr.splitlines()[:-1] == bare.stderr.splitlines()


def test_nothing_is_loaded_until_a_framework_is_imported():
    show = (
        "import sys; print([m for m in ('millstream', 'msgspec', 'logging', 'typing') if m in sys.modules])"
    )
    assert record(sys.executable, "-c", show).stdout == "[]\n"


def test_a_framework_that_is_not_imported_is_not_loaded(spans):
    show = "import openai, sys; print([m for m in ('langchain_core', 'mcp', 'crewai') if m in sys.modules])"
    assert record(sys.executable, "-c", show).stdout == "[]\n"


def test_the_frameworks_that_we_know_are_waited_for():
    text = (STARTUP / "sitecustomize.py").read_text()
    waited = set(re.findall(r'^    "([\w.]+)",$', text, re.MULTILINE))
    known = {
        entry.load().module
        for entry in entry_points(group="millstream.integrations")
        if entry.module == "millstream.record.integrations.frameworks"
    }
    assert known
    for module in known:
        assert any(module == name or module.startswith(f"{name}.") for name in waited), module


def test_the_start_costs_little():
    """CPU time of a Python that does nothing, the least of several; the command itself is started once."""

    def cpu_s(environment):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "pass"], env=environment, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    Path("notes").touch()
    under = {**os.environ, "PYTHONPATH": str(STARTUP), "MILLSTREAM_RECORD": str(Path("notes").absolute())}
    pairs = [(cpu_s(os.environ), cpu_s(under)) for _ in range(10)]
    assert Path("notes").read_text().count("process\t") == 10
    assert min(seen for _, seen in pairs) - min(bare for bare, _ in pairs) < 0.02


# A Python that cannot record, and programs that record nothing


@pytest.fixture
def other_environment(place):
    """A virtual environment with all the frameworks, but without millstream."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "other"], check=True)
    (packages,) = Path("other/lib").glob("python*/site-packages")
    for path in Path(pytest.__file__).parents[1].iterdir():
        if "millstream" not in path.name and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    return str(place / "other/bin/python")


def test_a_python_without_millstream(other_environment):
    result = record(other_environment, write("app.py", ASK), "hi")
    assert (result.returncode, result.stdout) == (0, "one two three\n")
    version = ".".join(map(str, sys.version_info[:3]))
    assert result.stderr == (
        f"millstream: nothing was recorded of {other_environment} ({version}), which lacks millstream: "
        f"{other_environment} -m pip install millstream\n"
    )
    assert record(other_environment, "-c", "print(1)").stdout == "1\n"


def test_a_python_where_millstream_is_something_else():
    Path("mine").mkdir()
    write("mine/millstream.py", "print('the mill')")
    result = record(sys.executable, write("mine/app.py", ASK), "hi")
    assert (result.returncode, result.stdout) == (0, "the mill\none two three\n")
    assert "where millstream cannot be loaded: " in last_line(result)


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_a_python_that_does_not_read_the_environment(option):
    result = record(sys.executable, option, "-c", "print(1)")
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert "nothing was recorded, for no Python was reached" in result.stderr
    assert "python -I, -E or -S" in result.stderr


def test_a_program_without_a_framework():
    result = record(sys.executable, "-c", "print(1)")
    assert "imports no framework that millstream knows" in last_line(result)
    result = record(sys.executable, "-c", "import openai")
    assert last_line(result) == "millstream: nothing was recorded: openai was imported, but no call was seen"


@pytest.mark.parametrize("name", ["MILLSTREAM_DISABLED", "OTEL_SDK_DISABLED"])
def test_recording_that_is_switched_off(name, monkeypatch, home):
    monkeypatch.setenv(name, "true")
    result = record(sys.executable, write("app.py", ASK), "hi")
    assert (result.returncode, result.stdout) == (0, "one two three\n")
    assert result.stderr == f"millstream: nothing was recorded, for {name} is set\n"
    assert not (home / "journal").exists()


def test_a_home_that_cannot_be_written(monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("MILLSTREAM_HOME", "file/home")
    result = record(sys.executable, write("app.py", ASK), "hi", "hi")
    assert (result.returncode, result.stdout) == (0, "one two three\none two three\n")
    complaint, line = result.stderr.splitlines()
    assert "cannot be written" in complaint
    assert line == "millstream: 2 spans lost, for the journal could not be written"


def test_traces_that_are_not_sampled(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert last_line(record(sys.executable, "-c", STEPS)) == "millstream: 3 traces not sampled"


def test_spans_that_the_program_records_elsewhere(place):
    program = f"import millstream\nmillstream.recording(home='elsewhere')\n{STEPS}"
    result = record(sys.executable, "-c", program)
    assert last_line(result) == f"millstream: 3 spans in {place}/elsewhere, where the program says"


def test_a_process_that_goes_on():
    start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=0, stderr=1)"
    stay = STEPS + "\nprint('recorded', flush=True)\nimport time; time.sleep(60)"
    go = f"{start}\nprint(flush=True)\nimport time; time.sleep(5)"
    result = record(
        sys.executable,
        "-c",
        go,
        stay,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        capture_output=False,
    )
    assert "3 spans, 0 LLM calls; " in last_line(result)
    assert "; 1 process still recording; " in last_line(result)


# Figures


def test_self_time_is_the_profilers():
    random = Random(1)  # noqa: S311  # no secrets
    spans = []
    for number in range(400):
        start = random.randrange(1_000)
        parent = None if random.random() < 0.2 else f"{random.randrange(400):016x}"
        spans.append(
            Span(
                trace_id=f"{number % 3:032x}",
                span_id=f"{number:016x}",
                parent_id=parent,
                name=random.choice("abc"),
                kind=random.choice([SpanKind.LLM, SpanKind.TOOL]),
                start_ns=start,
                end_ns=None if random.random() < 0.1 else start + random.randrange(500),
            )
        )
    rows = self_time(SpanTable.from_spans(spans))
    wanted = {(row.name, row.kind): pytest.approx(row.self_s * 1e9) for row in rows}
    assert self_time_ns(spans) == wanted


# The page


def test_the_examples_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "recording.md").read_text()
    section = page.split("## No code at all\n")[1].split("\n## ")[0]
    commands = re.findall(r"^\$ (millstream record .*)$", section, re.MULTILINE)
    (line,) = re.findall(r"^millstream: .*$", section, re.MULTILINE)
    form = re.sub(r"[\d,]+\d|\d", "N", line)
    write("test_app.py", f"def test_it():\n{textwrap.indent(ASK.strip(), '    ')}\n")
    write("app.py", ASK.replace("sys.argv[1:]", "['one', 'two']") + STEPS)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MILLSTREAM_HOME")
    for command in commands:
        result = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=environment, check=False, timeout=120
        )
        assert result.returncode == 0, result.stderr
        if "--name" not in command:
            shown = re.sub(r"[\d,]+\d|\d", "N", last_line(result))
            assert shown == form.replace("gpt-x", "able").replace(", N % in search (TOOL)", "")
    assert len(commands) == 2
