"""The package from outside: its names, what importing it loads, its documentation."""

import json
import os
import re
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import millstream
from millstream.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PUBLIC = """
    Builder CrossWorkflowProcessor FunctionBaseConfig FunctionInfo IntermediateStep LLMFrameworkEnum
    MillstreamError OTelSpanProcessor ObservabilityContext ObservabilityWorkflowInvoker Redaction
    Sampling Span SpanKind Status Usage WorkflowRelationshipProcessor __version__ current_span deliver_to
    extract flush inject inject_environment instrument open_store profile recording register_function
    start_span stats subscribe track_function track_unregistered_function uninstrument
"""


def test_public_names_are_these():
    assert sorted(millstream.__all__) == sorted(PUBLIC.split()) == dir(millstream)
    for name in millstream.__all__:
        value = getattr(millstream, name)
        if name != "__version__":
            assert value.__doc__, f"{name} has no docstring"
            assert getattr(import_module(millstream._HOMES[name]), name) is value


def test_unknown_names_are_errors():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        millstream.nope  # noqa: B018


def test_recording_loads_msgspec_and_the_standard_library_only():
    code = """
        import sys
        bare = set(sys.modules)
        import millstream
        assert "msgspec" not in sys.modules, "the names are lazy"

        @millstream.track_function
        def f():
            pass

        f()
        loaded = {name.partition(".")[0] for name in set(sys.modules) - bare}
        print(*sorted(loaded - set(sys.stdlib_module_names)))
    """
    output = subprocess.check_output([sys.executable, "-I", "-c", textwrap.dedent(code)], text=True)
    assert set(output.split()) <= {"millstream", "msgspec", "typing_extensions"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/recording.md", "docs/delivery.md", "docs/profiler.md"])
def test_the_python_of_a_page_runs_and_so_do_its_commands(page, tmp_path):
    """Blocks run in order, as one module; then each command about `.millstream` is typed as it stands."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    (tmp_path / "app.py").write_text("\n\n".join(blocks))
    environment = {key: value for key, value in os.environ.items() if key != "MILLSTREAM_HOME"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(command: str) -> str:
        result = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    run("python -W error app.py")
    commands = re.findall(r"^\$ ((?:python -c|millstream (?:profile|journal)) .*)$", text, re.MULTILINE)
    printed = {command: run(command) for command in commands}
    if page == "README.md":
        assert "answer" in printed["millstream profile .millstream"]
        assert (
            json.loads(printed["millstream journal export"].splitlines()[-1])["output"]
            == "You asked: What is a mill stream?"
        )
        assert (tmp_path / "profile" / "report.html").stat().st_size > 10_000


def test_every_command_and_option_has_help():
    def walk(command, path):
        assert command.help, f"{path} has no help"
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{path} {parameter.opts} has no help"
        for name in getattr(command, "list_commands", lambda context: [])(None):
            walk(command.get_command(None, name), f"{path} {name}")

    walk(cli, "millstream")


def test_options_exist_with_dash_and_underscore():
    for spelling in ("--config_file", "--config-file"):
        result = subprocess.run(
            [sys.executable, "-m", "millstream", "validate", spelling, "absent.yml"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 2
        assert "absent.yml" in result.stderr
        assert "Traceback" not in result.stderr


def test_the_changelog_knows_this_version():
    assert f"## {millstream.__version__}" in (ROOT / "CHANGELOG.md").read_text()
