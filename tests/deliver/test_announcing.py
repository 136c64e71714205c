"""What is said of a sink that fails and recovers, by a clock of the test's own."""

import logging
from random import Random

import pytest

from millstream.deliver.announcing import Announcing
from millstream.deliver.backoff import Backoff
from millstream.deliver.cursor import Counts
from millstream.deliver.policy import Policy
from millstream.errors import RefusedError, UnreachableError
from tests.deliver.sinks import Clock

AWAY = UnreachableError("the server does not answer")


class Watched:
    """A sink that does as it is told, looked at every second."""

    def __init__(self, home, **kwargs):
        self.clock = Clock()
        self.backoff = Backoff(Policy(), self.clock, Random(1))  # noqa: S311  # no secret
        self.announcing = Announcing(home, "out", **kwargs)
        self.left = 8

    def well(self, seconds=1):
        for _ in range(seconds):
            self.clock.now += 1
            self.backoff.worked()
            self.look()

    def fails(self, seconds=1, error=AWAY):
        for _ in range(seconds):
            self.clock.now += 1
            self.backoff.failed(error, self.clock.now)
            self.look()

    def look(self):
        self.announcing.look(self.backoff, Counts(), self.clock.now, lambda: self.left)


@pytest.fixture
def said(caplog):
    return lambda: [record.getMessage().removeprefix("millstream: ") for record in caplog.records]


@pytest.fixture
def watched(home, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "millstream")
    monkeypatch.chdir(home.parent)
    return Watched(home)


def test_an_outage_is_said_in_whole_sentences(watched, said, home):
    watched.fails(90)
    watched.well(200)
    waits = f"8 spans wait in {home.name}, to be sent when it is well again"
    assert said() == [
        f"out gets nothing: the server does not answer; {waits}",
        "out takes spans again, after an outage of 90 s",
    ]


def test_one_span_waits(watched, said):
    watched.left = 1
    watched.fails(10, RefusedError("the server wants a password"))
    assert "; 1 span waits in " in said()[0]
    assert said()[0].endswith(", to be sent when that is mended")


@pytest.mark.parametrize("well_s", [1, 10, 25])
def test_one_that_comes_and_goes_is_said_once_until_it_is_well_for_a_while(watched, said, well_s):
    for _ in range(100):
        watched.fails(6)
        watched.well(well_s)
    assert len(said()) == 1
    watched.well(60)
    assert len(said()) == 2
    assert f"takes spans again, after an outage of {(600 + 99 * well_s) / 60:.0f} min" in said()[1]


def test_one_that_goes_again_and_again_is_said_ever_more_rarely(watched, said):
    for _ in range(200):  # more than six hours
        watched.fails(10)
        watched.well(110)
    assert len(said()) < 8


def test_random_failures_four_times_in_five_are_one_outage(watched, said):
    chance = Random(3)  # noqa: S311  # no secret
    for _ in range(3600):
        if chance.random() < 0.8:
            watched.fails()
        else:
            watched.well()
    assert len(said()) == 1


def test_what_a_person_has_to_mend_is_said_in_the_middle_of_an_outage(watched, said):
    watched.fails(20)
    watched.fails(20, RefusedError("the server wants a password"))
    watched.fails(20)
    watched.well(40)
    assert [text.split(" ")[1] for text in said()] == ["gets", "gets", "takes"]
    assert said()[2].endswith("after an outage of 60 s")


def test_last_words_after_an_outage_that_was_said_tell_why_there_is_more(watched, said):
    watched.fails(20)
    watched.well(5)
    watched.announcing.last_words(3, None, Counts(sent=5), None)
    assert said()[1].startswith("3 of 8 spans are not delivered to out yet (there was no time for more); ")
