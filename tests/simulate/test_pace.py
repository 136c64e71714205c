import json
import statistics

import pytest

from millstream.simulate.answer import plan_answer
from millstream.simulate.chat import parse_chat_request
from millstream.simulate.draws import Draw
from millstream.simulate.pace import pace_of
from millstream.simulate.rules import Latency, Rules


def paced(latency, reply, computed_tokens=0, seed=0, **model):
    rules = Rules.model_validate({"models": {"m": model}, "default": reply})
    request = parse_chat_request(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    )
    draw = Draw(seed, request.fingerprint, 0)
    return pace_of(Latency(**latency), plan_answer(rules, request, draw, 1), computed_tokens, draw)


def test_times_without_jitter_are_exact():
    latency = {"time_to_first_token_s": 0.5, "time_per_input_token_s": 0.001, "time_per_output_token_s": 0.1}
    pace = paced(latency, "one two three", computed_tokens=100)
    assert pace.pieces_s == pytest.approx([0.6, 0.7, 0.8])
    assert pace.end_s == pytest.approx(0.8)


def test_reasoning_and_delay_come_before_the_first_piece():
    pace = paced({"time_per_output_token_s": 0.1}, {"text": "one two", "delay_s": 2}, reasoning_tokens=4)
    assert pace.pieces_s == pytest.approx([2.4, 2.5])


def test_a_whole_tool_name_takes_the_time_of_its_tokens():
    pace = paced({"time_per_output_token_s": 0.1}, {"tokens": 3})
    assert pace.end_s == pytest.approx(0.2)


def test_an_empty_answer_ends_at_its_first_token():
    pace = paced({"time_to_first_token_s": 0.5}, {"error": {"status": 500}})
    assert (pace.pieces_s, pace.end_s) == ([], 0.5)


def test_jitter_spreads_and_keeps_the_mean():
    latency = {"time_to_first_token_s": 1, "time_per_output_token_s": 0.1, "jitter": 0.3}
    paces = [paced(latency, {"tokens": 20}, seed=seed) for seed in range(300)]
    assert statistics.mean(pace.pieces_s[0] for pace in paces) == pytest.approx(1, abs=0.06)
    assert statistics.stdev(pace.pieces_s[0] for pace in paces) == pytest.approx(0.307, abs=0.06)
    assert statistics.mean(pace.end_s - pace.pieces_s[0] for pace in paces) == pytest.approx(1.9, abs=0.05)
    assert all(list(pace.pieces_s) == sorted(pace.pieces_s) for pace in paces)
    assert paces[7] == paced(latency, {"tokens": 20}, seed=7)
