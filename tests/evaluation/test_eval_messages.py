"""What is wrong in the workflow file is told with its path, by every command in the same words."""

import socket

import pytest

from millstream.cli import main

GOOD = """
llms:
  able: {_type: openai, model_name: m, base_url: 'http://127.0.0.1:PORT/v1', api_key: k, max_retries: 0}
workflow: {_type: tool_calling_agent, llm_name: able}
eval:
  general: {output_dir: out, dataset: {_type: csv, file_path: data.csv}}
  evaluators: {right: {_type: exact_match}}
"""


@pytest.fixture
def told(runs, capsys):
    """Runs a command over the good file with one part of it replaced: the exit code and what it says."""
    runs.data(("a", "one", "ONE"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(command, before="", after="", *arguments):
        (runs.folder / "config.yml").write_text(GOOD.replace(before, after, 1).replace("PORT", str(port)))
        capsys.readouterr()
        extra = ("--input", "x") if command == "run" else arguments
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--config_file", "config.yml", *extra])
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("before", "after", "commands"),
    [
        ("llm_name: able", "llm_name: abel", ("validate", "run", "eval")),
        ("exact_match", "exactmatch", ("validate", "eval")),
        ("output_dir", "output_dri", ("validate", "eval")),
        ("data.csv", "date.csv", ("validate", "eval")),
        ("workflow: {_type: tool_calling_agent, llm_name: able}", "", ("run", "eval")),
    ],
)
def test_the_file_is_named_by_every_command(told, before, after, commands):
    said = {told(command, before, after) for command in commands}
    assert len(said) == 1
    code, text = said.pop()
    assert code == 2
    assert text.startswith("millstream: config.yml: ")


def test_several_problems_are_listed_as_validate_does(told):
    two = "exact_match, a: 1}, other: {_type: regexx"
    checked, evaluated = told("validate", "exact_match", two), told("eval", "exact_match", two)
    assert checked == evaluated
    assert checked[1].startswith(
        "millstream: config.yml has 2 problems:\n  eval.evaluators.right.a: unknown key"
    )


@pytest.mark.parametrize("other", ["Right", "RIGHT", "Workflow"])
def test_names_of_evaluators_that_are_one_file_on_some_disks(told, other):
    code, text = told("validate", "evaluators: {", f"evaluators: {{{other}: {{_type: exact_match}}, ")
    assert code == 2
    if other == "Workflow":
        assert "eval.evaluators.Workflow: the name becomes that of the file Workflow_output.json" in text
    else:
        assert f"eval.evaluators.right: this and '{other}' differ in upper and lower case only" in text
        assert "one file on many disks; give one of them another name" in text


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        (
            "llm_judge, llm_name: able, rubric: r, scale: 10",
            "scale: scale is [low, high], two numbers, the lower first, but it is 10",
        ),
        (
            "llm_judge, llm_name: able, rubric: r, scale: 1-5",
            "scale: scale is [low, high], two numbers, the lower first, but it is '1-5'",
        ),
        (
            "llm_judge, llm_name: able, rubric: {file: r.md}",
            "rubric: a text is needed here; a file with it is named by rubric_file: PATH",
        ),
        (
            "ragas, llm_name: able, metric: [Faithfulness]",
            "metric: text or a mapping of keys is needed here, not a list",
        ),
        (
            "regex, pattern: '(open'",
            "pattern: '(open' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
    ],
)
def test_wrong_options_of_evaluators_are_told_in_one_sentence(told, evaluator, said):
    assert told("validate", "exact_match", evaluator) == (
        2,
        f"millstream: config.yml: eval.evaluators.right.{said}\n",
    )


def test_a_support_that_is_neither_a_number_nor_a_share(told):
    text = told("validate", "output_dir: out", "profiler: {prefix_span_analysis: {min_support: 2.5}}")[1]
    assert (
        "min_support: give a whole number of requests, or the share of them up to 1.0, but it is 2.5" in text
    )


def test_a_price_table_that_is_not_there_is_named_once(told):
    code, text = told("validate", "output_dir: out", "profiler: {prices: cheap.csv}")
    assert code == 2
    assert text == (
        "millstream: config.yml: eval.general.profiler.prices: the price table cheap.csv cannot be read: No"
        " such file or directory\n"
    )


def test_a_server_that_is_down_is_told_with_the_file_that_names_it(told):
    code, text = told("eval")
    assert (code, told("run")[0]) == (4, 4)
    assert text.startswith("millstream: config.yml: The only item failed: no model server answers at http://")
    assert told("run")[1].startswith("millstream: config.yml: no model server answers at http://")


def test_what_is_wrong_on_the_command_line_is_not_of_the_file(told):
    for arguments in (
        ("--fail-under", "rihgt=1"),
        ("--dataset", "other.csv"),
        ("--dataset", "other.txt"),
        ("--endpoint", "http://127.0.0.1:9/x"),
        ("--skip_workflow", "--reps", "2"),
    ):
        code, text = told("eval", "", "", *arguments)
        assert code in (2, 4)
        assert "config.yml" not in text


def test_calibrate_names_the_file(told, runs):
    judge = "llm_judge, llm_name: able, rubric: r"
    (runs.folder / "labels.csv").write_text("id,score,answer\na,1,x\n")
    labels = ("--labels", "labels.csv")
    assert told("eval calibrate", "exact_match", f"{judge}, vote: 2", *labels)[1].startswith(
        "millstream: config.yml: eval.evaluators.right.vote: unknown key"
    )
    assert told("eval calibrate", "exact_match", judge, *labels)[1].startswith(
        "millstream: config.yml: The judge gave no score: no model server answers"
    )
    text = told("eval calibrate", "exact_match", judge, *labels, "--evaluator", "x")[1]
    assert text == "millstream: --evaluator: there is no eval.evaluators.x; known: right\n"
