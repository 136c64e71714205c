"""Judges measured against people: figures against SciPy, scikit-learn and brute force, and the command."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from millstream.evaluation.calibration.agreement import (
    agreement,
    kappa,
    mean_difference,
    rank_correlation,
    weighted_kappa,
)
from millstream.evaluation.calibration.measure import Pair, figures_of, position_bias
from millstream.evaluation.calibration.verdict import notes, verdict
from millstream.evaluation.judging.comparison import OUTCOMES
from millstream.evaluation.judging.scale import NumberScale
from tests.evaluation.judges import stand_in, when

TEN = NumberScale(0, 10)
Z2 = stats.norm.ppf(0.975) ** 2
points = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2)))
)


@settings(deadline=None)
@given(points)
def test_kappa_is_scikit_learns(both):
    assume(len({*both[0], *both[1]}) > 1)
    found = kappa(*both)
    assert found.value == pytest.approx(cohen_kappa_score(*both))
    assert found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12
    assert found.high <= 1 + 1e-12


@settings(deadline=None)
@given(points)
def test_weighted_kappa_is_scikit_learns(both):
    assume(len({*both[0], *both[1]}) > 1)
    found = weighted_kappa(*both)
    assert found.value == pytest.approx(
        cohen_kappa_score(*both, labels=range(5), weights="quadratic"), abs=1e-9
    )
    if found.low is not None:
        assert -1 <= found.low <= found.value <= found.high <= 1


def test_weighted_kappa_of_scores_between_the_points_is_that_of_a_finer_scale():
    random = np.random.default_rng(1)
    a = random.integers(0, 21, 60) / 2
    b = np.clip(a + random.integers(-4, 5, 60) / 2, 0, 10)
    fine = cohen_kappa_score((a * 2).astype(int), (b * 2).astype(int), weights="quadratic")
    assert weighted_kappa(a, b).value == pytest.approx(fine)
    assert weighted_kappa(a * 10 + 7, b * 10 + 7).low == pytest.approx(weighted_kappa(a, b).low)


def _jackknife(first, second, figure):
    """The standard error by leaving out one item after the other."""
    n = len(first)
    values = [figure(np.delete(first, place), np.delete(second, place)) for place in range(n)]
    return np.sqrt((n - 1) / n * np.sum((values - np.mean(values)) ** 2))


def test_the_intervals_of_kappa_by_brute_force():
    random = np.random.default_rng(2)
    a = random.integers(0, 4, 50)
    b = np.where(random.random(50) < 0.6, a, random.integers(0, 4, 50))
    n = 50
    error = _jackknife(a, b, lambda x, y: cohen_kappa_score(x, y, weights="quadratic"))
    ours = weighted_kappa(a, b)
    half = stats.t.ppf(0.975, n - 1) * error / (1 - ours.value**2)
    assert ours.low == pytest.approx(np.tanh(np.arctanh(ours.value) - half))
    assert ours.high == pytest.approx(np.tanh(np.arctanh(ours.value) + half))

    same, chance = np.mean(a == b), sum(np.mean(a == c) * np.mean(b == c) for c in range(4))
    variance = _jackknife(a, b, cohen_kappa_score) ** 2 * (1 - chance) ** 2
    size = same * (1 - same) / variance
    assert n / 2 < size < 2 * n
    z = stats.norm.ppf(0.975)
    low, high = sorted(np.roots([1 + z * z / size, -(2 * same + z * z / size), same * same]).real)
    ours = kappa(a, b)
    assert (ours.low, ours.high) == pytest.approx(
        ((low - chance) / (1 - chance), (high - chance) / (1 - chance))
    )


def _binary(prevalence, value):
    """Chances of the four pairs where both raters have this prevalence and kappa is `value`."""
    chance = prevalence**2 + (1 - prevalence) ** 2
    apart = (1 - chance) * (1 - value) / 2
    return np.array([1 - prevalence - apart, apart, apart, prevalence - apart])


@pytest.mark.parametrize("n", [50, 100, 200])
@pytest.mark.parametrize(("prevalence", "truth"), [(0.5, 0.2), (0.5, 0.6), (0.7, 0.4), (0.7, 0.7)])
def test_the_interval_of_kappa_covers_the_truth(n, prevalence, truth):
    """Nominal 90 %."""
    random = np.random.default_rng(20261128)
    hits, runs = 0, 4_000
    for pairs in random.choice(4, size=(runs, n), p=_binary(prevalence, truth)):
        found = kappa(pairs // 2, pairs % 2, level=0.9)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / runs <= 0.92


def _ordinal(random, runs, n, noise):
    """Scores from 0 to 4 by two raters who see the same quality, each with noise; one is a little higher."""
    quality = random.normal(size=(runs, n))
    seen = (quality + random.normal(size=(runs, n)) * noise + shift for shift in (0, 0.2))
    return [np.digitize(one, [-1, -0.3, 0.3, 1]) for one in seen]


@pytest.mark.parametrize("n", [50, 100])
@pytest.mark.parametrize("noise", [0.3, 0.7, 1.5])
def test_the_interval_of_weighted_kappa_covers_the_truth(n, noise):
    random = np.random.default_rng(20261128)
    truth = weighted_kappa(*(one.ravel() for one in _ordinal(random, 1, 1_000_000, noise))).value
    runs = 4_000
    found = [weighted_kappa(a, b, level=0.9) for a, b in zip(*_ordinal(random, runs, n, noise), strict=True)]
    hits = sum(one.low <= truth <= one.high for one in found)
    assert 0.88 <= hits / runs <= 0.92


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_interval_of_the_rank_correlation_covers_the_truth(noise):
    random = np.random.default_rng(20261128)
    correlation = 1 / (1 + noise**2)
    truth = 6 / np.pi * np.arcsin(correlation / 2)  # of the normal distribution
    hits, runs, n = 0, 4_000, 60
    for _ in range(runs):
        quality = random.normal(size=n)
        a, b = ((quality + random.normal(size=n) * noise).tolist() for _ in range(2))
        found = rank_correlation(a, b, level=0.9)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / runs <= 0.92


def test_agreement_correlation_and_difference_are_scipys():
    random = np.random.default_rng(3)
    a, b = random.integers(0, 6, 40), random.integers(0, 6, 40)
    same = int((a == b).sum())
    oracle = stats.binomtest(same, 40).proportion_ci(0.95, method="wilson")
    ours = agreement(a, b)
    assert (ours.value, ours.low, ours.high) == pytest.approx((same / 40, oracle.low, oracle.high))

    ours = rank_correlation(list(a), list(b))
    r = stats.spearmanr(a, b).statistic
    half = stats.norm.ppf(0.975) * np.sqrt((1 + r * r / 2) / 37)
    assert (ours.value, np.arctanh(ours.low)) == pytest.approx((r, np.arctanh(r) - half))

    ours = mean_difference(a, b)
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (ours.value, ours.low, ours.high) == pytest.approx((np.mean(b - a), interval.low, interval.high))


def test_what_cannot_be_known_is_null():
    assert kappa([], []).value is weighted_kappa([], []).value is agreement([], []).value is None
    assert kappa([1, 1], [1, 1]).value is weighted_kappa([1, 1], [1, 1]).value is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]).value is None
    assert rank_correlation([1, 2, 3], [1, 2, 3]).low is None
    assert weighted_kappa([1, 2, 3], [1, 2, 3]).low is None
    constant = weighted_kappa([0, 1, 0, 1, 1], [0.5] * 5)
    assert (constant.value, constant.low) == (0, None)
    assert mean_difference([1], [2]).low is None
    assert position_bias([]).value is position_bias([[], []]).value is None


def test_perfect_agreement_is_not_certain():
    found = kappa([0, 1] * 10, [0, 1] * 10)
    assert found.value == 1
    assert found.high == pytest.approx(1)
    low = stats.binomtest(20, 20).proportion_ci(0.95, method="wilson").low
    assert found.low == pytest.approx((low - 0.5) / 0.5)


def _pairs(random, n, lean=0.0, noise=1.0):
    """A judge that adds `lean` points for every 100 characters."""
    found = []
    for number in range(n):
        human, length = random.integers(1, 9), int(random.integers(10, 300))
        judge = np.clip(human + lean * (length - 150) / 100 + random.normal() * noise, 0, 10)
        found.append(Pair(str(number), human / 10, float(judge) / 10, length))
    return found


def test_a_judge_that_likes_long_answers_is_found_out():
    random = np.random.default_rng(4)
    pairs = _pairs(random, 120, lean=1.0)
    figures = figures_of(pairs, TEN, compares=False)
    oracle = stats.spearmanr([pair.judge - pair.human for pair in pairs], [pair.length for pair in pairs])
    assert figures.length_bias.value == pytest.approx(oracle.statistic, abs=1e-6)
    assert figures.length_bias.low > 0.2
    assert "it favours longer answers" in verdict(figures, 120)
    fair = figures_of(_pairs(random, 120), TEN, compares=False)
    assert fair.length_bias.low < 0 < fair.length_bias.high
    assert "favours" not in verdict(fair, 120)
    assert fair.position_bias is None


def test_the_difference_is_in_points_of_the_scale():
    pairs = [Pair(str(n), human, human + 0.25, n) for n, human in enumerate([0, 0.25, 0.5, 0.75, 0.5])]
    figures = figures_of(pairs, NumberScale(1, 5), compares=False)
    assert figures.mean_difference.value == pytest.approx(1)
    assert figures.agreement.value == 0
    assert "it scores higher than they do, by 1.00" in verdict(figures, 5)


def test_a_judge_that_likes_the_first_place_is_found_out():
    first = position_bias([[True, True]] * 30 + [[True, False]] * 30)
    assert first.value == 0.75
    assert first.low > 0.5
    assert first.method == "wilson_of_items"
    mixed = position_bias([[True, True]] * 30 + [[False, False]] * 15 + [[True, False]] * 15)
    means = np.array([1.0] * 30 + [0.0] * 15 + [0.5] * 15)
    size = 0.625 * 0.375 / _jackknife(means, means, lambda x, _: x.mean()) ** 2
    size *= (stats.t.ppf(0.975, 119) / stats.t.ppf(0.975, 59)) ** 2
    assert 60 < size < 120
    oracle = sorted(np.roots([1 + Z2 / size, -(1.25 + Z2 / size), 0.625**2]).real)
    assert (mixed.low, mixed.high) == pytest.approx(tuple(oracle))
    steady = position_bias([[True, False]] * 30)
    assert (steady.value, steady.method) == (0.5, "wilson_of_items")
    pairs = [Pair(str(n), n % 2, 0.5, 10 + n, [True, True]) for n in range(20)]
    told = verdict(figures_of(pairs, OUTCOMES, compares=True), 20)
    assert "cannot be told from chance" in told
    assert "it favours the answer shown first (share of the first 1.00" in told


@pytest.mark.parametrize(
    ("n", "noise", "words"),
    [
        (200, 0.1, "agrees with people well"),
        (200, 4, "in part"),
        (30, 2, "these labels leave open"),
        (12, 20, "cannot be told from chance"),
        (2, 0.1, "Nothing can be said"),
        (0, 0, "Nothing can be said"),
    ],
)
def test_the_verdict(n, noise, words):
    figures = figures_of(_pairs(np.random.default_rng(6), n, noise=noise), TEN, compares=False)
    assert words in verdict(figures, n), verdict(figures, n)
    assert any("the intervals are wide" in note for note in notes(figures, n)) is (n < 30)


def _config(runs, base_url, evaluators=None, **general):
    model = {"_type": "openai", "model_name": "judge", "base_url": base_url, "max_retries": 0}
    structure = {"generated_answer_key": "answer"}
    dataset = {"_type": "csv", "file_path": "data.csv", "structure": structure}
    judge = {"_type": "llm_judge", "llm_name": "judge", "rubric": "Right."}
    content = {
        "llms": {"judge": model},
        "workflow": {"_type": "python", "target": "flow.py:answer"},
        "eval": {
            "general": {"output_dir": "out", "dataset": dataset, **general},
            "evaluators": {"judge": judge, "right": {"_type": "exact_match"}}
            if evaluators is None
            else evaluators,
        },
    }
    (runs.folder / "config.yml").write_text(yaml.safe_dump(content))


def _calibrate(runs, *arguments):
    """The command in this process."""
    from millstream.cli import main
    from tests.evaluation.conftest import Done

    runs._capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["eval", "calibrate", "--config_file", "config.yml", "--labels", "labels.csv", *arguments])
    return Done(left.value.code, *runs._capsys.readouterr())


def _rows(n):
    return [(str(number), f"question {number}", f"answer {number % 10}", number % 10) for number in range(n)]


RULES = [
    when(rf"<answer \w+>\nanswer {score}\n", {"json": {"score": min(10, score + 1)}}) for score in range(10)
]


def test_the_command_asks_the_judge_about_the_answers_of_the_labels(runs, tmp_path):
    lines = ["id,score,answer,question,expected", "none,,an answer,q,", "odd,3,odd,q,"]
    lines += [f"{one},{score},{answer},{question}," for one, question, answer, score in _rows(40)]
    (runs.folder / "labels.csv").write_text("\n".join(lines) + "\n")
    with stand_in(tmp_path, *RULES, when("odd|cannot be used", "banana")) as server:
        _config(runs, server.base_url)
        done = _calibrate(runs)
    assert done.returncode == 3, done.stderr
    assert (
        "40 answers scored by people and the judge (asked now); 1 missing, 1 without a label" in done.stdout
    )
    assert "missing (1): the judge gave no JSON object with the key 'score': 'banana'" in done.stdout
    assert "it scores higher than they do, by 1.00, 1.00 to 1.00" in done.stdout
    assert done.stdout.splitlines()[-1] == "out/calibration.json"
    content = runs.json("calibration.json")
    assert (content["n"], content["missing"], content["scores_from"]) == (40, 1, "judge")
    human, judge = ([round(pair[key] * 10) for pair in content["pairs"]] for key in ("human", "judge"))
    figures = content["figures"]
    assert figures["kappa"]["value"] == pytest.approx(cohen_kappa_score(human, judge))
    assert figures["weighted_kappa"]["value"] == pytest.approx(
        cohen_kappa_score(human, judge, weights="quadratic")
    )
    assert figures["agreement"]["value"] == 0
    assert content["pairs"][0]["length"] == len("answer 0")


def test_the_command_takes_the_scores_of_the_last_run_while_the_judge_is_the_same(runs, tmp_path):
    data = ["id,question,answer", *(f"{one},{question},{answer}" for one, question, answer, _ in _rows(12))]
    (runs.folder / "data.csv").write_text("\n".join(data) + "\n")
    labels = ["id,score", *(f"{one},{score}" for one, _, _, score in _rows(12)), "gone,3"]
    (runs.folder / "labels.csv").write_text("\n".join(labels) + "\n")
    with stand_in(tmp_path, *RULES) as server:
        _config(runs, server.base_url)
        text = (runs.folder / "config.yml").read_text()
        assert runs.run("--skip_workflow").returncode == 0
        asked = server.stats()["requests"]
        done = _calibrate(runs, "--json")
        assert server.stats()["requests"] == asked
        content = json.loads(done.stdout)
        assert (content["n"], content["missing"], content["scores_from"]) == (12, 1, "run")
        assert content["missing_reasons"] == {"the run in out has no such item": 1}
        assert content["notes"][0].startswith("Only 12 answers")
        (runs.folder / "config.yml").write_text(text.replace("Right.", "Right and short."))
        again = json.loads(_calibrate(runs, "--json").stdout)
        assert again["scores_from"] == "judge"
        assert server.stats()["requests"] == asked + 12
    assert again["figures"] == content["figures"]


def test_a_comparison_is_calibrated_with_its_places(runs, tmp_path):
    labels = ["id,score,answer,question,expected,other"]
    labels += [f"{n},{'win' if n % 2 else 'loss'},good {n},q,,bad {n}" for n in range(10)]
    labels += [f"{n},tie,same {n},q,,same" for n in range(10, 14)]
    (runs.folder / "labels.csv").write_text("\n".join(labels) + "\n")
    rules = [
        when(r"<answer_1 \w+>\ngood", {"json": {"label": "first"}}),
        when(r"<answer_2 \w+>\ngood", {"json": {"label": "second"}}),
        when("", {"json": {"label": "first"}}),
    ]
    judge = {"_type": "llm_judge", "llm_name": "judge", "rubric": "r", "compare_to": "other"}
    with stand_in(tmp_path, *rules) as server:
        _config(runs, server.base_url, {"which": judge})
        done = _calibrate(runs)
    content = runs.json("calibration.json")
    assert done.returncode == 0, done
    assert content["figures"]["agreement"]["value"] == pytest.approx(9 / 14)
    assert content["figures"]["position_bias"]["value"] == pytest.approx(18 / 28)
    assert content["figures"]["position_bias"]["n"] == 28
    assert "verdicts for the first place" in done.stdout


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ("id,score\n1,11\n", [], "line 2: the score '11' is outside the scale from 0 to 10"),
        ("id,score\n1,good\n", [], "the score 'good' is not a number from 0 to 10"),
        ("id,score\n1,1\n1,2\n", [], "line 3: the id '1' occurs twice"),
        ("id,scores\n1,1\n", [], "has no column 'score'; did you mean 'scores'"),
        ("id,score\n,1\n", [], "line 2 has no id"),
        ("id,score,rep\n1,1,x\n", [], "rep 'x' is not a number from 1"),
        ("id,score\n", [], "has no rows"),
        ("id,score,answer\n1,,x\n", [], "None of the labels has a score: fill in the column score."),
        (
            "id,score,answer\n1,1,x\n2,,y\n",
            [],
            "No id of the labels is one of the dataset data.csv: the first of the labels is '1', the first",
        ),
        ("id,score\n1,1\n", [], "the labels have no column 'answer', and out holds no workflow_output.json"),
        (
            "id,score\n1,1\n",
            ["--evaluator", "jugde"],
            "there is no eval.evaluators.jugde; did you mean 'judge'",
        ),
        ("id,score\n1,1\n", ["--evaluator", "right"], "eval.evaluators.right is no judge"),
    ],
)
def test_wrong_labels_are_told(runs, labels, arguments, message):
    _config(runs, "http://127.0.0.1:9/v1")
    (runs.folder / "data.csv").write_text("id,question\nq-1,one\nq-2,two\n")
    (runs.folder / "labels.csv").write_text(labels)
    done = _calibrate(runs, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (runs.out / "calibration.json").exists()


def test_labels_of_other_ids_than_those_of_the_run(runs):
    runs.data(("q-1", "one", "ONE"))
    runs.config()
    assert runs.run().returncode == 0
    _config(runs, "http://127.0.0.1:9/v1")
    (runs.folder / "labels.csv").write_text("id,score\n1,1\n")
    done = _calibrate(runs)
    assert done.returncode == 2
    assert "No id of the labels is one of the run in out: the first of the labels is '1'," in done.stderr
    assert "the first there 'q-1'." in done.stderr


def test_labels_that_are_not_there(runs):
    _config(runs, "http://127.0.0.1:9/v1")
    (runs.folder / "labels.csv").unlink(missing_ok=True)
    done = _calibrate(runs)
    assert done.returncode == 2
    assert "The file labels.csv does not exist" in done.stderr


def test_several_judges_and_none(runs):
    judge = {"_type": "llm_judge", "llm_name": "judge", "rubric": "r"}
    (runs.folder / "labels.csv").write_text("id,score\n1,1\n")
    _config(runs, "http://127.0.0.1:9/v1", {"a": judge, "b": judge})
    assert "eval.evaluators has 2 judges; name one of a, b with --evaluator" in _calibrate(runs).stderr
    _config(runs, "http://127.0.0.1:9/v1", {"a": {"_type": "exact_match"}})
    assert "eval.evaluators has no judges; add an llm_judge" in _calibrate(runs).stderr


def test_a_judge_that_is_down_is_one_message(runs):
    _config(runs, "http://127.0.0.1:9/v1")
    lines = ["id,score,answer,question,expected", *(f"{n},1,a,q," for n in range(5))]
    (runs.folder / "labels.csv").write_text("\n".join(lines) + "\n")
    done = _calibrate(runs)
    assert done.returncode == 4
    assert "The judge gave no score: no model server answers at http://127.0.0.1:9/v1" in done.stderr


def test_the_command_has_its_own_help_and_eval_keeps_its_own(runs, capsys):
    from millstream.cli import main

    for arguments, words in (
        (["eval", "calibrate", "--help"], "--labels"),
        (["eval", "--help"], "--skip_workflow"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        assert words in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["eval"])
    assert left.value.code == 2
    assert "--config_file" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_in_the_middle_and_again(runs, tmp_path, kept):
    lines = ["id,score,answer,question,expected", *(f"{n},{n % 3},answer {n},q," for n in range(6))]
    (runs.folder / "labels.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "millstream", "eval", "calibrate", "--config_file", "config.yml"]
    rules = [when(f"answer {n}", {"json": {"score": n % 3}}) for n in range(6)]
    slow = {"latency": {"time_to_first_token_s": 0.3}}
    with stand_in(tmp_path, *rules, model=slow) as server:
        _config(runs, server.base_url, max_concurrency=1, cache={"enable": kept, "path": "calls.sqlite"})
        process = subprocess.Popen(
            [*command, "--labels", "labels.csv"],
            cwd=runs.folder,
            env=runs.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until_s = time.monotonic() + 180
        while server.stats()["requests"] < 4:  # three verdicts are there
            assert time.monotonic() < until_s
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stopped = runs.finish(process, 20)
        assert stopped.returncode == 130
        assert not (runs.out / "calibration.json").exists()
        told = "asks only for the others" if kept else "asks for every verdict again"
        assert told in stopped.stderr
        asked = server.stats()["requests"]
        assert _calibrate(runs).returncode == 0
        again = server.stats()["requests"] - asked
        assert again <= 3 if kept else again == 6
    assert runs.json("calibration.json")["n"] == 6
