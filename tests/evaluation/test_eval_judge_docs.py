"""docs/judges.md: its example is run, its tables name what there is."""

import re
from pathlib import Path

import pytest

from millstream.cli import main
from millstream.cli.eval_calibrate import calibrate_command
from millstream.evaluation.evaluators.llm_judge import LlmJudge
from millstream.evaluation.evaluators.trajectory import TrajectoryJudge
from tests.simulate.process import running

PAGE = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(yaml|python|csv|yml)\n(.*?)```", PAGE, re.DOTALL))


def test_the_example_runs(runs, monkeypatch, capsys):
    (runs.folder / "config.yml").write_text(BLOCKS["yaml"])
    (runs.folder / "shop.py").write_text(BLOCKS["python"])
    (runs.folder / "questions.csv").write_text(BLOCKS["csv"])
    (runs.folder / "rules.yml").write_text(BLOCKS["yml"])
    (runs.folder / "labels.csv").write_text("id,score\n1,9\n2,6\n3,0\n")
    with running(runs.folder / "rules.yml") as server:
        monkeypatch.setenv("JUDGE_URL", server.base_url)
        assert runs.run().returncode == 0
        asked = server.stats()["requests"]
        with pytest.raises(SystemExit) as left:
            main(["eval", "calibrate", "--config_file", "config.yml", "--labels", "labels.csv"])
        assert server.stats()["requests"] == asked == 3
    assert left.value.code == 0
    items = runs.json("helpful_output.json")["eval_output_items"]
    assert [item["score"] for item in items] == [1, 0.5, 0]
    assert items[0]["reasoning"] == {"raw": 10, "reasoning": "The price and nothing else."}
    calibration = runs.json("calibration.json")
    assert (calibration["n"], calibration["scores_from"]) == (3, "run")
    assert calibration["figures"]["weighted_kappa"]["value"] > 0.9
    assert "Only 3 answers" in capsys.readouterr().out


def test_every_option_is_on_the_page():
    for model in (LlmJudge, TrajectoryJudge):
        for name in model.model_fields:
            assert f"| `{name}` |" in PAGE, name
    for parameter in calibrate_command.params:
        assert any(f"| `{name}" in PAGE for name in parameter.opts), parameter.name
