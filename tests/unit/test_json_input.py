import math

import pytest

from streetvision.errors import DataError
from streetvision.json_input import number, parse, shorten


def test_all_numbers_are_floats():
    assert parse(b"[1, 2.5, -0]", "x") == [1.0, 2.5, 0.0]
    assert all(isinstance(value, float) for value in parse(b"[1, 2.5, -0]", "x"))


def test_numbers_that_no_float_holds_are_infinite_however_they_are_written():
    assert parse(b"[1e400, " + b"9" * 10_000 + b", -1e400, Infinity]", "x") == [math.inf, math.inf, -math.inf, math.inf]


def test_a_byte_order_mark_and_carriage_returns_are_no_matter():
    assert parse('\ufeff{"a": 1}\r\n'.encode(), "x") == {"a": 1.0}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'{"a": \xff}', "x: byte 7 is not UTF-8"),
        (b'{"a": }', "x: no JSON, Expecting value at character 7"),
        (b"", "x: no JSON, Expecting value at character 1"),
        (b"1 2", "x: no JSON, Extra data at character 3"),
        (b"[" * 100_000, "x: brackets are nested too deep"),
        (b'{"a": 1, "a": 2}', 'x: key "a" stands there twice'),
        (b'[{"b": {"c": 1, "c": 1}}]', 'x: key "c" stands there twice'),
    ],
)
def test_what_is_no_json_is_one_sentence(data, sentence):
    with pytest.raises(DataError) as caught:
        parse(data, "x", hint="do it well")
    assert str(caught.value) == f"{sentence}\nhint: do it well"


@pytest.mark.parametrize(
    ("value", "read"), [(0.5, 0.5), (" -1 ", -1.0), ("Infinity", math.inf), ("1e-3", 0.001), ("-inf", -math.inf)]
)
def test_numbers_are_read_from_text_as_float_reads_them(value, read):
    assert number(value) == read


def test_nan_is_a_number_too():
    assert math.isnan(number("NaN"))
    assert math.isnan(number(parse(b"NaN", "x")))


@pytest.mark.parametrize("value", [True, False, None, "", "half", "0x1", [], {}])
def test_what_is_no_number_is_none(value):
    assert number(value) is None


def test_long_values_are_cut_off_and_control_characters_are_harmless():
    assert shorten(["\x1b[31m"]) == '["\\u001b[31m"]'
    assert shorten("a" * 100) == '"' + "a" * 39 + "..."
