import ast

import pytest

from streetvision.errors import DataError
from streetvision.subnet.upstream import Evaluator, SourceTree, Trace, argument, called, calls, default, same, text
from tests.unit.subnet.imitation import write


def expression(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body


@pytest.fixture
def checkout(tmp_path):
    """Writes files and opens them."""

    def make(files: dict[str, str]) -> SourceTree:
        return SourceTree(write(tmp_path, {f"{name}.py": content for name, content in files.items()}))

    return make


@pytest.fixture
def evaluate(checkout):
    def run(source: str, module: str = "", **known: object):
        tree = checkout({"here": module})
        return Evaluator(tree, tree.modules("here.py")[0], known=known).value(expression(source))

    return run


def returned(body: str, decide=lambda _: None) -> str:
    """What a function with that body returns, in what it was given."""
    function = ast.parse("def f(a, b):\n" + "\n".join(f"    {line}" for line in body.splitlines())).body[0]
    value = Trace(decide).returned(function)
    return "" if value is None else ast.unparse(value)


def test_a_checkout_is_a_folder(tmp_path):
    with pytest.raises(DataError, match="missing` is no folder, expected a checkout of the source"):
        SourceTree(tmp_path / "missing")


def test_files_are_found_by_pattern_in_any_depth(checkout):
    tree = checkout({"a/x": "", "a/b/x": "", "c/x": ""})
    assert [module.path for module in tree.modules("a/**/x.py")] == ["a/b/x.py", "a/x.py"]
    with pytest.raises(DataError, match=r"no file d/\*.py or e.py"):
        tree.modules("d/*.py", "e.py")


def test_functions_and_methods_are_found_by_name(checkout):
    tree = checkout(
        {"m": "class A:\n    def f(self): ...\n\ndef g():\n    def h(): ...\n\nif x:\n    async def i(): ...\n"}
    )
    for name, line in (("A.f", 2), ("f", 2), ("g", 4), ("h", 5), ("i", 8)):
        assert tree.function(name, "m.py")[1].lineno == line
    with pytest.raises(DataError, match="no function `B.f` in m.py"):
        tree.function("B.f", "m.py")


def test_a_name_that_stands_there_twice_is_refused(checkout):
    tree = checkout(dict.fromkeys("mn", "def f(): ...\nclass A: ...\n"))
    with pytest.raises(DataError, match="function `f` stands in m.py:1, n.py:1"):
        tree.function("f", "*.py")
    with pytest.raises(DataError, match="class `A` stands in m.py:2, n.py:2"):
        tree.class_("A", "*.py")


def test_constants_are_followed_through_imports(checkout):
    tree = checkout(
        {
            "m": "from p.n import X as Y\n",
            "p/n": "from p import Z as X\n",
            "p/__init__": "from p.o import Z\n",
            "p/o": "Z: int = 7\n",
        }
    )
    module, value = tree.constant("Y", tree.modules("m.py")[0])
    assert (module.path, text(value)) == ("p/o.py", "7")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "m.py does not say what `X` is"),
        ("X = 1\nX = 2\n", "m.py assigns `X` 2 times"),
        ("from m import X\n", "`X` is imported in a circle"),
        ("from elsewhere import X\n", "no file elsewhere.py or elsewhere/__init__.py"),
    ],
)
def test_a_constant_that_is_not_clear_is_refused(source, reason, checkout):
    tree = checkout({"m": source})
    with pytest.raises(DataError, match=reason):
        tree.constant("X", tree.modules("m.py")[0])


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("2 * 3 + 4 / 8 - 7 // 2 + 7 % 4", 6.5),
        ("-2 ** 2", -4),
        ("max(1, int(2.9), abs(-4))", 4),
        ("pow(2, 3) + np.power(2, 2)", 12),
        ("(1, [2, {'a': 3}])", (1, [2, {"a": 3}])),
        ("list({0: 'a', 1: 'b'}.keys())", [0, 1]),
        ("1 < 2 <= 2 != 3", True),
        ("not (1 < 2 and 2 < 1)", True),
        ("0 or 5", 5),
        ("2 and 0", 0),
        ("1 if 2 > 1 else unknown", 1),
        ("np.asarray(3.5)", 3.5),
        ("86_400 / (1440 * (1 - 0.10))", 200 / 3),
    ],
)
def test_expressions_are_computed(source, value, evaluate):
    assert same(evaluate(source), value)


def test_names_are_looked_up_and_known_parts_are_filled_in(evaluate):
    assert evaluate("X * a + b", "X = Y + 1\nY = 2\n", a=10, b=1) == 31


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x", "does not say what `x` is"),
        ("f(1)", "`f\\(1\\)` is not known"),
        ("f(1) * 2", "`f\\(1\\)` is not known"),
        ("max(1, key=len)", "is not known"),
        ("1 / 0", "cannot compute `1 / 0`: division by zero"),
        ("'a' * 1000000000", "no numbers"),
        ("10 ** 1000", "the power is too high"),
        ("2.0 ** 64 ** 64", "the power is too high"),
        ("((10 ** 64) ** 64) ** 64", "the number is too large"),
        ("(-8) ** 0.5", "the root of a negative number"),
        ("int('x')", "invalid literal"),
        ("[i for i in (1, 2)]", "is not known"),
        ("(lambda: 1)()", "is not known"),
        ("__import__('os').getcwd()", "is not known"),
    ],
)
def test_what_cannot_be_computed_is_refused(source, reason, evaluate):
    with pytest.raises(DataError, match=reason):
        evaluate(source)


def test_a_constant_of_itself_is_refused(evaluate):
    with pytest.raises(DataError):
        evaluate("X", "X = X + 1\n")


def test_options_stand_for_their_defaults(checkout):
    number = "D = 4\np.add_argument('--neuron.k', type=int, default=D)\n"
    tree = checkout({"m": "", "o": f"{number}p.add_argument('--flag', action='store_true')\n"})
    evaluator = Evaluator(tree, tree.modules("m.py")[0], options=("o.py",))
    assert evaluator.value(expression("self.config.neuron.k")) == 4
    assert evaluator.value(expression("config.get('absent', 0.5)")) == 0.5
    assert evaluator.value(expression("config.get('neuron.k', 0.5)")) == 4
    with pytest.raises(DataError, match="no option `--neuron.j` in o.py"):
        evaluator.value(expression("self.config.neuron.j"))
    with pytest.raises(DataError, match="option --flag has no default"):
        evaluator.value(expression("self.config.flag"))


def test_unknown_parts_are_named_smallest_ones(checkout):
    tree = checkout({"m": "X = 2\n"})
    evaluator = Evaluator(tree, tree.modules("m.py")[0], known={"a": 1.0})
    assert evaluator.unknown(expression("X * a + f(a) if a > g[0] else max(a, h)")) == ["f(a)", "g[0]", "h"]
    assert evaluator.unknown(expression("X * a")) == []


def test_a_constant_that_cannot_be_read_is_no_unknown_part(checkout):
    tree = checkout({"m": "from gone import X\n"})
    with pytest.raises(DataError, match="no file gone.py"):
        Evaluator(tree, tree.modules("m.py")[0]).unknown(expression("X * f(1)"))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return a", "a"),
        ("x = a\nx += 1\nx *= b\nreturn x", "(a + 1) * b"),
        ("x: int = a\ny: int\nreturn x", "a"),
        ("x, y = g(a)\nreturn y", "g(a)[1]"),
        ("self.x = a\nreturn self.x + 1", "a + 1"),
        ("d = {}\nd['k'] = a\nreturn d['k'] + d.get('k', 0)", "a + a"),
        ("d = g(a)\nreturn d['k']", "g(a)['k']"),
        ("out = []\nfor x in b:\n    out.append(x * a)\nreturn np.array(out)", "np.array(x * a)"),
        ("try:\n    x = a\nexcept E:\n    x = b\nreturn x", "a"),
        ("with g():\n    x = a\nreturn x", "a"),
        ("x = a\nif b:\n    x = 0\nreturn x", "0 if b else a"),
        ("x = a\nif b:\n    print(x)\nreturn x", "a"),
        ("if b:\n    return 1\nreturn a", "1 if b else a"),
        ("if b:\n    x = 1\nelse:\n    x = 1\nreturn x", "1"),
        ("if b:\n    raise E\nreturn a", "a"),
        ("if a:\n    x = 1\nelif b:\n    x = 2\nelse:\n    raise E\nreturn x", "1 if a else 2"),
        (
            "out = []\nfor x in b:\n    if x:\n        out.append(0)\n        continue\n    out.append(a)\nreturn out",
            "0 if x else a",
        ),
        ("x = a", ""),
        ("def g():\n    return 5\nreturn a", "a"),
    ],
)
def test_functions_are_followed(body, value):
    assert returned(body) == value


def test_a_decided_condition_is_followed_on_one_side():
    body = "if a == -1:\n    x = 0\nelse:\n    x = b\nreturn x"
    assert returned(body, lambda _: False) == "b"
    assert returned(body, lambda _: True) == "0"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("for x in b:\n    return x", "`return` in the loop"),
        ("match a:\n    case 1:\n        x = 1\nreturn x", "`match` on line 2"),
        ("x = a\n" + "x = x + x\n" * 40 + "return x", "is too long to be followed"),
        ("x = a\n" + "if g(x):\n    x += 1\n" * 40 + "return x", "too"),
        ("*x, y = a\nreturn y", "cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_refused_soon(body, reason):
    with pytest.raises(DataError, match=reason):
        returned(body)


def test_calls_are_named_by_their_last_part_and_come_in_order():
    tree = ast.parse("a.b.f(1)\nf(2)\ng()\n(lambda: 0)()\n")
    assert [text(call) for call in calls(tree, "f")] == ["a.b.f(1)", "f(2)"]
    assert called(expression("(lambda: 0)()")) == ""


def test_arguments_are_found_by_name_or_position():
    call = expression("f(1, b=2)")
    assert text(argument(call, "a", 0)) == "1"
    assert text(argument(call, "b", 1)) == "2"
    assert argument(call, "c", 2) is None


def test_defaults_are_found_by_parameter():
    function = ast.parse("def f(a, b=1, *, c, d=2): ...").body[0]
    assert [text(default(function, name)) for name in "bd"] == ["1", "2"]
    for name in "ac":
        with pytest.raises(DataError, match=f"`f` has no parameter `{name}` with a default"):
            default(function, name)


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [
        (3, 3.0, True),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (True, 1, False),
        ([1, (2, 3)], (1, [2, 3]), True),
        ([1], [1, 2], False),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1.0}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("1", 1, False),
        ("a", "a", True),
    ],
)
def test_values_are_the_same_up_to_rounding(found, expected, equal):
    assert same(found, expected) is equal


def test_long_source_is_cut_off():
    assert text(expression("f(" + ", ".join(["argument"] * 50) + ")")).endswith("...")
