"""docs/evaluation.md: its example is run, its tables name what there is."""

import re
from pathlib import Path

import pytest

from millstream.cli.eval import eval_command
from millstream.evaluation import config, registry

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(yaml|python|csv)\n(.*?)```", PAGE, re.DOTALL))


def test_the_example_runs(runs):
    (runs.folder / "config.yml").write_text(BLOCKS["yaml"])
    (runs.folder / "shop.py").write_text(BLOCKS["python"])
    (runs.folder / "questions.csv").write_text(BLOCKS["csv"])
    done = runs.run()
    assert done.returncode == 3
    assert "'003': LookupError: nothing on sale in 'A bicycle?'" in done.stdout
    assert done.stdout.splitlines()[-1] == "out/report.html"
    assert runs.json("right_output.json")["average_score"] == pytest.approx(2 / 3)
    assert runs.json("brevity_output.json")["eval_output_items"][0]["reasoning"] == "2 words"
    for name in re.findall(r"^\| `([\w.]+\.\w+)`", PAGE, re.MULTILINE):
        if not name.startswith(("structure.", "filter.")):
            assert (runs.out / name).is_file()


def test_every_key_option_and_evaluator_is_on_the_page():
    for model in (config.GeneralConfig, config.DatasetConfig, config.StructureConfig):
        for name, field in model.model_fields.items():
            if name not in ("structure", "filter", "output"):
                assert re.search(rf"`(structure\.)?{field.alias or name}`", PAGE), name
    for kind in registry.evaluator_types():
        assert f"| `{kind}` |" in PAGE
    for parameter in eval_command.params:
        assert any(f"| `{name}" in PAGE for name in parameter.opts), parameter.name
