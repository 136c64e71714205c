"""`millstream compare` on two real runs of the example against the stand-in."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import millstream
from millstream.cli import main
from tests.simulate.process import running

ROOT = Path(millstream.__file__).parents[2]
EXAMPLE = ROOT / "examples" / "email_phishing_analyzer"
REFERENCE = ROOT / "tests" / "evaluation" / "reference"


@pytest.fixture
def compare(capsys):
    """Runs the command in this process; gives what it prints."""

    def run(*arguments, expect=0):
        with pytest.raises(SystemExit) as left:
            main(["compare", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert left.value.code == expect, err
        return err if expect else out

    return run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Output folders of two models: one was asked six e-mails, the other five of them in another order."""
    folder = tmp_path_factory.mktemp("evaluated")
    with (EXAMPLE / "data" / "smaller_test.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with running(EXAMPLE / "models.yml", "--seed", "1") as stand_in:
        for model, chosen in (
            ("meta-llama-3.1-70b-instruct", rows[:6]),
            ("phi-3-mini-4k-instruct", rows[5:0:-1]),
        ):
            data = folder / f"{model}.csv"
            with data.open("w", newline="") as file:
                csv.writer(file).writerows([header, *chosen])
            subprocess.run(
                [
                    *(sys.executable, "-m", "millstream", "eval", "--config_file", EXAMPLE / "config.yml"),
                    *("--dataset", data, "--override", "eval.general.output_dir", folder / model),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT / "src"),
                    "OPENAI_BASE_URL": stand_in.base_url,
                    "MODEL": model,
                    "MILLSTREAM_HOME": str(folder / "home"),
                },
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=120,
            )
    return folder / "meta-llama-3.1-70b-instruct", folder / "phi-3-mini-4k-instruct"


def test_two_runs_side_by_side(compare, evaluated):
    found = json.loads(compare(*evaluated, "--json"))
    assert found["level"] == 0.95
    assert {"both": 5, "only_a": 1, "only_b": 0}.items() <= found["items"].items()
    metrics = found["metrics"]
    assert list(metrics)[:6] == [
        "latency_s",
        "input_tokens",
        "output_tokens",
        "cost",
        "accuracy",
        "groundedness",
    ]
    by_id = [
        {
            row["subject"]: row["runtime_s"]
            for row in json.loads((folder / "workflow_output.json").read_text())
        }
        for folder in evaluated
    ]
    both = by_id[0].keys() & by_id[1].keys()
    assert len(both) == 5
    means = [sum(of_run[one] for one in both) / 5 for of_run in by_id]
    latency = metrics["latency_s"]
    assert [latency["a"], latency["b"]] == pytest.approx(means)
    assert latency["difference"] == pytest.approx(means[1] - means[0])
    assert latency["low"] < latency["difference"] < latency["high"]
    assert latency["ratio"] == pytest.approx(means[1] / means[0])
    assert metrics["llm_calls"]["b"] == 1
    assert metrics["output_tokens"]["b"] == 10
    word = "faster" if latency["ratio"] < 1 else "slower"
    assert f"x {word} (" in found["sentence"]
    assert found["sentence"].startswith("B is ")


def test_the_table_says_what_is_compared_and_ends_in_the_sentence(compare, evaluated):
    printed = compare(*evaluated).splitlines()
    sentence = json.loads(compare(*evaluated, "--json"))["sentence"]
    assert printed[0] == f"A  {evaluated[0]}"
    assert printed[2] == "5 items in both, paired by id and input; 1 only in A"
    assert printed[-1] == sentence
    heading = next(line for line in printed if line.startswith("metric"))
    assert heading.split() == ["metric", "n", "A", "B", "B", "-", "A", "95", "%", "B", "/", "A", "95", "%"]


def test_each_of_more_runs_is_compared_with_the_first(compare, evaluated):
    a, b = evaluated
    found = json.loads(compare(a, b, a, "--json"))
    assert [(one["a"], one["b"]) for one in found] == [(str(a), str(b)), (str(a), str(a))]
    assert found[1]["sentence"].startswith("C is as fast")
    assert found[1]["metrics"]["latency_s"]["difference"] == 0
    assert "C / A" in compare(a, b, a)


def test_runs_of_the_reference_and_failed_items(compare):
    printed = compare(REFERENCE / "plain", REFERENCE / "failed")
    assert f"B  {REFERENCE / 'failed'}, 1 failed" in printed
    assert printed.endswith("no difference in latency or accuracy can be seen from 4 items.\n")


def test_a_narrow_terminal_has_room_for_the_differences(compare, monkeypatch):
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    printed = compare(REFERENCE / "plain", REFERENCE / "repeated")
    assert "B / A" not in printed
    assert "B - A" in printed
    assert "…" not in printed


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["missing", "plain"], "does not exist"),
        (["plain", "empty"], "holds no workflow_output.json"),
        (["plain", "others"], "no item in common (by id and input)"),
        (["plain"], "Missing argument 'RUN_B...'"),
    ],
)
def test_bad_input_is_one_clear_message(compare, tmp_path, runs, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "workflow_output.json").write_text('[{"id": "q1", "question": "another"}]')
    places = [REFERENCE / name if name == "plain" else tmp_path / name for name in runs]
    complaint = compare(*places, expect=2)
    assert said in complaint
    if len(runs) > 1:
        assert complaint.count("\n") == 1
        assert complaint.startswith("millstream: ")
