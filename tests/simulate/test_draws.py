import statistics

from millstream.simulate.draws import Draw, fingerprint

REQUEST = fingerprint({"model": "m", "messages": [{"role": "user", "content": "hi"}]})


def test_a_draw_depends_on_its_label_and_not_on_those_before():
    first, second = Draw(1, REQUEST, 0), Draw(1, REQUEST, 0)
    first.uniform("other")
    assert first.uniform("a") == second.uniform("a")
    assert first.uniform("a") != first.uniform("b")


def test_seed_request_and_repetition_each_change_it():
    keys = [
        Draw(1, REQUEST, 0),
        Draw(2, REQUEST, 0),
        Draw(1, REQUEST, 1),
        Draw(1, fingerprint({"model": "n"}), 0),
    ]
    assert len({draw.uniform("a") for draw in keys}) == 4


def test_streaming_is_no_part_of_what_is_asked():
    body = {"model": "m", "messages": []}
    streamed = {"messages": [], "stream": True, "model": "m", "stream_options": {"include_usage": True}}
    assert fingerprint(body) == fingerprint(streamed)
    assert fingerprint(body) != fingerprint({**body, "temperature": 0})


def test_a_request_with_a_lone_surrogate_has_a_fingerprint():
    assert len(fingerprint({"content": "\ud800"})) == 16


def test_uniform_draws_are_spread_evenly():
    values = [Draw(3, REQUEST, n).uniform("x") for n in range(4000)]
    assert all(0 <= value < 1 for value in values)
    assert abs(statistics.mean(values) - 0.5) < 0.02
    assert abs(sum(value < 0.1 for value in values) / 4000 - 0.1) < 0.02


def test_factors_have_mean_one_and_the_spread_asked_for():
    factors = [Draw(3, REQUEST, n).factor("x", 0.3) for n in range(4000)]
    assert abs(statistics.mean(factors) - 1) < 0.02
    assert abs(statistics.stdev(factors) - 0.307) < 0.03  # sqrt(exp(0.09) - 1)
    assert Draw(3, REQUEST, 0).factor("x", 0) == 1


def test_integers_and_choices_reach_both_ends():
    draws = [Draw(3, REQUEST, n) for n in range(200)]
    assert {draw.integer("n", 2, 4) for draw in draws} == {2, 3, 4}
    assert {draw.choice("c", "ab") for draw in draws} == {"a", "b"}


def test_texts_are_of_the_length_asked_for():
    text = Draw(3, REQUEST, 0).text("id", 29)
    assert len(text) == 29
    assert text.isalnum()
