from datetime import datetime
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from millstream.errors import ConfigError
from millstream.workflow.validation import Problems, nearest, parse_model


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cat(Strict):
    kind: Literal["cat"]
    lives: int = 9


class Dog(Strict):
    kind: Literal["dog"]
    tricks: list[str] = []


class Home(Strict):
    size_m2: Annotated[float, Field(gt=0)]
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    rooms: dict[str, Dog | None] = {}
    guest: Cat | Dog | None = None
    api_key: SecretStr | None = None


def problems_of(mapping):
    with pytest.raises(ConfigError) as caught:
        parse_model(Home, mapping, "home")
    return str(caught.value).splitlines()


def test_several_problems_are_one_a_line():
    assert problems_of({"size": 3, "pets": [{"kind": "cat", "live": 1}, {"kind": "dog", "tricks": 7}]}) == [
        "home: the key 'size_m2' is missing",
        "home.pets.0.live: unknown key; did you mean 'lives'? Known: kind, lives",
        "home.pets.1.tricks: a list is needed here, not 7",
        "home.size: unknown key; did you mean 'size_m2'? Known: api_key, guest, pets, rooms, size_m2",
    ]


def test_places_inside_mappings_and_optional_models():
    assert problems_of({"size_m2": 1, "rooms": {"attic": {"kind": "dog", "trick": []}}}) == [
        "home.rooms.attic.trick: unknown key; did you mean 'tricks'? Known: kind, tricks"
    ]


def test_a_union_without_a_discriminator_names_the_key_itself():
    lines = problems_of({"size_m2": 1, "guest": {"kind": "cat", "live": 3}})
    assert "home.guest.live: unknown key; did you mean 'lives'? Known: kind, lives" in lines


class Kinds(Strict):
    one: int | list[str] = 1
    two: float | str = 1
    few: Annotated[list[int], Field(max_length=2)] = []
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    when: datetime | None = None


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"one": "x"}, "one: a whole number or a list is needed here, not 'x'"),
        ({"two": None}, "two: a number or text is needed here, not nothing"),
        ({"one": [1], "two": [1]}, "one.0: text is needed here, not 1; put it in quotes"),
        ({"few": [1, 2, 3]}, "few: a list with at most 2 entries is needed here, not 3"),
        ({"name": "A"}, "name: text that matches ^[a-z]+$ is needed here, not 'A'"),
        ({"when": "noon"}, "when: a time such as 2026-11-28T08:00:00Z is needed here, not 'noon'"),
    ],
)
def test_what_is_needed_is_told_once(mapping, said):
    with pytest.raises(ConfigError) as caught:
        parse_model(Kinds, mapping)
    lines = str(caught.value).splitlines()
    assert said in lines
    assert len({line.partition(":")[0] for line in lines}) == len(lines)


def test_values_are_shown_but_not_secrets():
    lines = problems_of({"size_m2": -1, "api_key": 12345})
    assert lines == [
        "home.size_m2: a number > 0 is needed here, not -1",
        "home.api_key: text is needed here; put it in quotes",
    ]


@pytest.mark.parametrize(("value", "shown"), [(None, "nothing"), ([1], "a list"), ("x", "'x'")])
def test_what_is_not_a_mapping(value, shown):
    assert problems_of(value) == [f"home: a mapping of keys is needed here, not {shown}"]


def test_nearest_lists_what_there_is():
    assert nearest("cta", ["dog", "cat"]) == "; did you mean 'cat'? Known: cat, dog"
    assert nearest("zzz", []) == "; known: none"


def test_problems_are_collected_once_each():
    problems = Problems()
    for text in ("a\nb", "b"):
        with problems.collect():
            raise ConfigError(text)
    with pytest.raises(ConfigError, match=r"^f.yml has 2 problems:\n  a\n  b$"):
        problems.raise_if_any("f.yml")
    Problems().raise_if_any("f.yml")
