import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import json
import time
import typing
import uuid
from unittest.mock import AsyncMock, MagicMock, Mock, NonCallableMagicMock

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.record.serialize import MAX_BYTES, to_json


def convert(value):
    encoded = to_json(value)
    assert len(encoded) <= MAX_BYTES
    return json.loads(encoded, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    day: datetime.date = datetime.date(2020, 1, 2)
    inner: object = None


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


class Silent:
    def __repr__(self):
        raise RuntimeError


class Plain:
    pass


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (float("nan"), None),
        (2**70, 2**70),
        ((1, [2, {"a": 3}]), [1, [2, {"a": 3}]]),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        (b"ab", "YWI="),
        (bytearray(b"ab"), "YWI="),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        (Colour.RED, "red"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Model(), {"day": "2020-01-02", "inner": None}),
        (Point(1), {"x": 1, "y": None}),
        (Point(1, Model()), {"x": 1, "y": {"day": "2020-01-02", "inner": None}}),
        (Text("t"), "t"),
        (np.float64(1.5), 1.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.zeros((100, 100)), "<array of float64, shape (100, 100)>"),
        (collections.deque([1, 2]), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (ValueError("no"), "ValueError: no"),
        (len, "<builtins.len>"),
        (int, "<builtins.int>"),
        (Silent(), f"<{__name__}.Silent: repr raised RuntimeError>"),
        ([Silent(), 1], [f"<{__name__}.Silent: repr raised RuntimeError>", 1]),
        (Plain(), f"<{__name__}.Plain>"),
        ("\ud800", "?"),
    ],
)
def test_values(value, expected):
    assert convert(value) == expected


def test_an_iterator_is_not_consumed():
    numbers = iter([1, 2, 3])
    convert(numbers)
    assert list(numbers) == [1, 2, 3]


@pytest.mark.parametrize("mock", [Mock, MagicMock, AsyncMock, NonCallableMagicMock, lambda: Mock(spec=dict)])
def test_a_mock_is_described_and_not_used(mock):
    made = mock()
    started = time.perf_counter()
    (text,) = convert((made,))
    assert time.perf_counter() - started < 1
    assert isinstance(text, str)
    assert made.mock_calls == []


class Tagged(msgspec.Struct, rename="camel", tag="t", frozen=True):
    some_field: object
    other: object = None


@dataclasses.dataclass
class Sparse:
    every: typing.ClassVar[int] = 1
    x: object = msgspec.UNSET
    y: object = None


class StrColour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Tagged(1), {"type": "t", "someField": 1, "other": None}),
        (Sparse(), {"y": None}),
        (StrColour.RED, "red"),
        (2**70, 2**70),
        (
            {1: 2, 1.5: 3, datetime.date(2020, 1, 2): 4, StrColour.RED: 5},
            {"1": 2, "1.5": 3, "2020-01-02": 4, "red": 5},
        ),
        (Colour.RED, "red"),
        ("x" * 150_000, "x" * 150_000),
        (list(range(5_000)), list(range(5_000))),
        (b"x" * 150_000, base64.b64encode(b"x" * 150_000).decode()),
        (collections.OrderedDict(a=1), {"a": 1}),
        (datetime.timedelta(1), "P1D"),
        (Model, f"<{__name__}.Model>"),
    ],
)
def test_beside_an_unknown_object_the_rest_stays_as_it_is(value, expected):
    assert convert([value, Plain()])[0] == expected
    assert convert(Tagged(value, Plain()))["someField"] == expected
    assert convert(Point(value, Plain()))["x"] == expected
    assert convert({"a": {"b": value}, "c": Plain()})["a"]["b"] == expected


def test_structs_keep_what_their_type_says_around_an_unknown_object():
    tagged = Tagged(Plain(), {1})
    assert convert(tagged) == {"type": "t", "someField": f"<{__name__}.Plain>", "other": [1]}
    assert isinstance(tagged.some_field, Plain)
    assert convert([Sparse(y=Plain())]) == [{"y": f"<{__name__}.Plain>"}]


def test_in_the_depth_of_the_stack_there_is_still_something():
    def dive():
        try:
            return dive()
        except RecursionError:
            return to_json([Plain()])

    assert json.loads(dive())


def test_no_address_is_recorded():
    assert "0x" not in to_json([Plain(), (i for i in ()), lambda: 1, Point(1, Plain())]).decode()


def test_cycles_are_marked():
    a: dict = {"name": "a"}
    a["self"] = a
    a["list"] = [a]
    assert convert(a) == {"name": "a", "self": "<cycle>", "list": ["<cycle>"]}


def test_depth_is_cut():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "too deep" in to_json(deep).decode()


@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000_000,
        b"x" * 5_000_000,
        list(range(1_000_000)),
        {str(i): "y" * 50 for i in range(100_000)},
        [["z" * 90_000] * 50] * 50,
    ],
)
def test_huge_values_are_cut_with_a_mark(value):
    text = to_json(value).decode()
    assert len(text) <= MAX_BYTES
    assert "cut" in text or "bytes>" in text


def test_a_large_prompt_is_whole():
    prompt = [{"role": "user", "content": "x" * 90_000}] * 8
    assert convert(prompt) == prompt


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_json_values_come_back_as_they_were(value):
    assert msgspec.json.decode(to_json(value)) == value


@given(
    st.recursive(
        st.text() | st.binary() | st.integers() | st.complex_numbers() | st.sets(st.integers()), st.lists
    )
)
def test_anything_has_a_json_form(value):
    convert(value)
