"""The error tree is the one that its docstring draws."""

import inspect
import re

from streetvision import errors


def test_the_docstring_draws_exactly_the_classes_there_are():
    drawn = set(re.findall(r"\b(\w+Error)\b(?=\(|\s{2,}|$)", errors.__doc__ or "", re.MULTILINE))
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined <= drawn


def test_every_error_refines_a_built_in():
    for value in vars(errors).values():
        if inspect.isclass(value) and value is not errors.StreetvisionError:
            built_in = [base for base in value.__mro__ if base.__module__ == "builtins"]
            assert built_in[0] is not Exception, value.__name__


def test_the_hint_stands_on_its_own_line():
    assert str(errors.DataError("a", hint="b")) == "a\nhint: b"
    assert str(errors.DataError("a")) == "a"
