import subprocess
import sys

from click.testing import CliRunner

from millstream.cli import cli


def run(*arguments):
    command = [sys.executable, "-m", "millstream", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_options_are_shown():
    result = CliRunner().invoke(cli, ["simulate", "llm", "--help"])
    assert result.exit_code == 0
    for option in ("--config", "--host", "--port", "--seed", "--exit-with-parent"):
        assert option in result.output


def test_a_missing_rules_file(tmp_path):
    done = run("llm", "--config", str(tmp_path / "none.yml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"millstream: there is no rules file {tmp_path / 'none.yml'}; check the path\n"


def test_a_misspelt_key_is_named_with_the_nearest_known_one(tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("models: {m: {latency: {time_to_frist_token_s: 1}}}")
    done = run("llm", "--config", str(rules))
    assert done.returncode == 2
    assert f"{rules}: models.m.latency.time_to_frist_token_s: unknown key" in done.stderr
    assert "did you mean 'time_to_first_token_s'?" in done.stderr


def test_no_config_is_wrong_usage():
    done = run("llm")
    assert done.returncode == 2
    assert "--config" in done.stderr
