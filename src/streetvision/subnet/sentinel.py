"""Whether the subnet's own source still says what `regimes.py` says; it is read, never run.

Source: natixnetwork/streetvision-subnet natix/, neurons/ @ 28a1755 for the layout of R1, its public history for others.
"""

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from streetvision.errors import DataError
from streetvision.subnet.regimes import (
    ACCURACY_WEIGHT,
    ACCURACY_WINDOW,
    AUDIENCE_SIZE,
    CROP_AREA,
    DISTORTIONS,
    EPOCH_BLOCKS,
    HISTORY,
    LEVELS,
    MAX_ANGLE_DEG,
    MCC_WEIGHT,
    MCC_WINDOW,
    NO_ANSWER,
    SCORE_ALPHA,
    STAKE_LIMIT_TAO,
    STRONGEST,
    TIMEOUT_S,
    WEIGHT_MAX,
    Regime,
)
from streetvision.subnet.reward import penalty
from streetvision.subnet.upstream import (
    Definition,
    Evaluator,
    Module,
    SourceTree,
    Trace,
    argument,
    called,
    calls,
    default,
    same,
    text,
)

_REWARD = "natix/validator/**/reward.py"
_TRACKER = "natix/validator/**/*performance_tracker.py"
_FORWARD = "natix/validator/forward.py"
_SELECTION = "natix/validator/**/*.py"
_VALIDATOR = "natix/base/validator.py"
_WEIGHTS = "natix/base/utils/weight_utils.py"
_OPTIONS = "natix/utils/config.py"
_TRANSFORMS = "natix/utils/image_transforms.py"
_PROTOCOL = "natix/protocol.py"
_NEURON = "neurons/validator.py"

_ARRAYS = ("array", "asarray")  # calls that leave values as they are
_POWER_OF_SUM = "a weighted sum of MCC and accuracy, times the penalty, to a power"
_AVERAGE = "a weighted sum of the reward and the score before"
_PROBES = (0.0, 0.2, 0.7, 1.0)
_PENALTY_PROBES = (-2.0, -1.0, -1e-9, 0.0, 0.25, 0.5, 1.0, 1.0000001, 2.0, math.nan)

Status = Literal["same", "different", "not read"]


class Checkout(SourceTree):
    """A checkout of the subnet's source, with the two formulas that several facts are about."""

    @cached_property
    def formula(self) -> "_Formula":
        """How the reward of an answer is made."""
        return _formula(self)

    @cached_property
    def score(self) -> "_Score":
        """How the score after a step is made."""
        return _score(self)


@dataclass(frozen=True, slots=True)
class Found:
    """What the source says, and where."""

    value: Any
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to compare.

    Attributes:
        name: what it is.
        read: finds it in a checkout; raises a DataError where it cannot.
        expected: what a regime says of it.
        applies: whether the regime says anything of it.
    """

    name: str
    read: Callable[[Checkout], Found]
    expected: Callable[[Regime], Any]
    applies: Callable[[Regime], bool] = lambda _: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one fact.

    Attributes:
        fact: its name.
        status: whether it was found, and equal.
        found: what the source says; None where it was not read.
        expected: what the regime says.
        file: where it stands, relative to the checkout; empty where it was not read.
        line: of that file, from 1; 0 where it was not read.
        reason: why it was not read; else empty.
    """

    fact: str
    status: Status
    found: Any = None
    expected: Any
    file: str = ""
    line: int = 0
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding in values that JSON has."""
        return {
            "fact": self.fact,
            "status": self.status,
            "found": _json(self.found),
            "expected": _json(self.expected),
            "file": self.file,
            "line": self.line,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        if self.status == "not read":
            return f"{self.fact}: {self.reason}"
        if self.status == "same":
            return f"{self.fact}: {_plain(self.found)} ({self.file}:{self.line})"
        return f"{self.file}:{self.line}: {self.fact}: found {_plain(self.found)}, expected {_plain(self.expected)}"


def compare(root: Path, regime: Regime) -> list[Finding]:
    """Every fact of a regime, compared with a checkout of the subnet's source.

    Args:
        root: folder of the checkout.
        regime: what is expected.

    Raises:
        DataError: there is no such folder.
    """
    tree = Checkout(root)
    return [_check(fact, tree, regime) for fact in FACTS if fact.applies(regime)]


def _check(fact: Fact, tree: Checkout, regime: Regime) -> Finding:
    expected = fact.expected(regime)
    try:
        found = fact.read(tree)
    except DataError as err:
        return Finding(fact=fact.name, status="not read", expected=expected, reason=err.message)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as err:
        reason = f"the source is laid out in another way ({type(err).__name__}: {err})"
        return Finding(fact=fact.name, status="not read", expected=expected, reason=reason)
    return Finding(
        fact=fact.name,
        status="same" if same(found.value, expected) else "different",
        found=found.value,
        expected=expected,
        file=found.file,
        line=found.line,
    )


def _plain(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_plain(key)}: {_plain(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "(" + ", ".join(_plain(item) for item in value) + ")"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.9g}"
        case "":
            return "''"
        case _:
            return str(value)


def _json(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _json(item) for key, item in value.items()}
        case list() | tuple():
            return [_json(item) for item in value]
        case float() if not math.isfinite(value):
            return str(value)
        case bool() | int() | float() | None:
            return value
        case _:
            return str(value)


def _evaluator(tree: SourceTree, module: Module, known: Mapping[str, Any] | None = None) -> Evaluator:
    return Evaluator(tree, module, options=(_OPTIONS,), known=known)


# The reward of an answer


@dataclass(frozen=True, slots=True)
class _Term:
    """One quantity that the reward is made of."""

    metric: str
    window: int | None
    node: ast.expr


@dataclass(frozen=True)
class _Formula:
    """The reward of an answer that was given, in its terms."""

    tree: SourceTree
    module: Module
    expression: ast.expr
    terms: Mapping[str, _Term]

    def others(self) -> list[str]:
        """The source of whatever else it depends on."""
        return _evaluator(self.tree, self.module, dict.fromkeys(self.terms, 1.0)).unknown(self.expression)

    def value(self, *, mcc: float, accuracy: float, factor: float = 1.0) -> float:
        values = {"mcc": mcc, "accuracy": accuracy, "penalty": factor}
        known = {name: values[term.metric] for name, term in self.terms.items() if term.metric in values}
        return float(_evaluator(self.tree, self.module, known).value(self.expression))

    def term(self, metric: str) -> _Term:
        found = [term for term in self.terms.values() if term.metric == metric]
        if len(found) != 1:
            raise DataError(f"{len(found)} terms of the reward `{text(self.expression)}` are {metric}, expected one")
        return found[0]

    @cached_property
    def powers(self) -> tuple[float, float, float]:
        """Weight of the MCC, weight of the accuracy and exponent, if it is a power of a weighted sum."""
        one, half = self.value(mcc=1, accuracy=1), self.value(mcc=0.5, accuracy=0.5)
        alone = [self.value(mcc=1, accuracy=0), self.value(mcc=0, accuracy=1)]
        if one > 0 and 0 < half != one and min(alone) >= 0:
            exponent = math.log(half / one) / math.log(0.5)
            weights = [value ** (1 / exponent) for value in alone]
            if all(
                math.isclose(
                    self.value(mcc=mcc, accuracy=accuracy, factor=factor),
                    ((weights[0] * mcc + weights[1] * accuracy) * factor) ** exponent,
                    rel_tol=1e-9,
                    abs_tol=1e-12,
                )
                for mcc, accuracy, factor in product(_PROBES, _PROBES, (0.0, 1.0))
            ):
                return weights[0], weights[1], exponent
        raise DataError(f"the reward `{text(self.expression)}` is not {_POWER_OF_SUM}")


class _Terms(ast.NodeTransformer):
    """Gives the metrics and the penalty in an expression their names."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.found: dict[str, _Term] = {}
        self._evaluator = evaluator

    def visit(self, node: ast.AST) -> Any:
        match node:
            case ast.Subscript(value=ast.Call() as call, slice=ast.Constant(value=str(metric))) if (
                called(call) == "get_metrics"
            ):
                window = argument(call, "window", 1)
                return self._name(metric, self._evaluator.value(window) if window else None, node)
            case ast.Call() if called(node) == "compute_penalty":
                return self._name("penalty", None, node)
            case _:
                return self.generic_visit(node)

    def _name(self, metric: str, window: int | None, node: ast.expr) -> ast.expr:
        name = metric if window is None else f"{metric}_{window}"
        self.found[name] = _Term(metric, window, node)
        return ast.copy_location(ast.Name(id=name, ctx=ast.Load()), node)


def _formula(tree: SourceTree) -> _Formula:
    module, function = tree.function("get_rewards", _REWARD)
    evaluator = _evaluator(tree, module)
    returned = Trace(lambda test: _if_answered(test, evaluator)).returned(function)
    expression = returned.elts[0] if isinstance(returned, ast.Tuple) else returned
    while isinstance(expression, ast.Call) and called(expression) in _ARRAYS:
        expression = expression.args[0]
    if expression is None:
        raise DataError(f"`get_rewards` in {module.path} returns nothing")
    terms = _Terms(evaluator)
    return _Formula(tree, module, terms.visit(expression), terms.found)


def _if_answered(test: ast.expr, evaluator: Evaluator) -> bool | None:
    """Whether a condition on the no-answer marker holds for an answer that was given."""
    comparison = next(_comparisons(test, evaluator), None)
    return None if comparison is None else isinstance(comparison.ops[0], ast.NotEq)


def _comparisons(node: ast.AST, evaluator: Evaluator) -> Iterator[ast.Compare]:
    """Comparisons with a negative number, such as the no-answer marker."""
    for part in ast.walk(node):
        if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq | ast.NotEq):
            try:
                value = evaluator.value(part.comparators[0])
            except DataError:
                continue
            if isinstance(value, int | float) and value < 0:
                yield part


def _reward_others(tree: Checkout) -> Found:
    formula = tree.formula
    return Found(formula.others(), formula.module.path, formula.expression.lineno)


def _reward_form(tree: Checkout) -> Found:
    formula = tree.formula
    if formula.others():
        raise DataError("the reward has terms that nothing is known of")
    try:
        found = _POWER_OF_SUM if formula.powers else ""
    except DataError:
        found = text(formula.expression)
    return Found(found, formula.module.path, formula.expression.lineno)


def _reward_exponent(tree: Checkout) -> Found:
    formula = tree.formula
    return Found(round(formula.powers[2], 9), formula.module.path, formula.expression.lineno)


def _reward_weight(metric: str) -> Callable[[Checkout], Found]:
    def read(tree: Checkout) -> Found:
        formula = tree.formula
        mcc_weight, accuracy_weight, _ = formula.powers
        weight = mcc_weight if metric == "mcc" else accuracy_weight
        return Found(round(weight, 9), formula.module.path, formula.term(metric).node.lineno)

    return read


def _reward_window(metric: str) -> Callable[[Checkout], Found]:
    def read(tree: Checkout) -> Found:
        formula = tree.formula
        term = formula.term(metric)
        call = next(calls(term.node, "get_metrics"))
        return Found(term.window, formula.module.path, call.lineno)

    return read


def _penalty(tree: Checkout) -> Found:
    module, function = tree.function("compute_penalty", _REWARD)
    returned = Trace().returned(function)
    if returned is None or not function.args.args:
        raise DataError(f"`compute_penalty` in {module.path} is no function of a prediction")
    name = function.args.args[0].arg
    values = {probe: _evaluator(tree, module, {name: probe}).value(returned) for probe in _PENALTY_PROBES}
    return Found(values, module.path, function.lineno)


def _needs_model(tree: Checkout) -> Found:
    module, function = tree.function("get_rewards", _REWARD)
    names = [one.arg for one in (*function.args.args, *function.args.kwonlyargs)]
    return Found("invalid_uids" in names, module.path, function.lineno)


# What a validator remembers


def _history(tree: Checkout) -> Found:
    module, function = tree.function("MinerPerformanceTracker.__init__", _TRACKER)
    value = default(function, "store_last_n_predictions")
    return Found(_evaluator(tree, module).value(value), module.path, value.lineno)


def _remembers(tree: Checkout) -> Found:
    """Whether `update` appends every answer, whatever it is."""
    module, function = tree.function("update", _TRACKER)
    appended = 0
    for one in function.body:
        if any(isinstance(part, ast.Return | ast.Raise) for part in ast.walk(one)):
            return Found(False, module.path, one.lineno)
        appended += isinstance(one, ast.Expr) and any(calls(one, "append"))
    return Found(appended == 2, module.path, function.lineno)


def _forgets(tree: Checkout) -> Found:
    """Whether `update` begins a new history as soon as the hotkey is another one."""
    module, function = tree.function("update", _TRACKER)
    asked = [one for one in function.body if isinstance(one, ast.If) and "hotkey" in text(one.test)]
    if not asked:
        return Found(False, module.path, function.lineno)
    choice = asked[0]
    if not any(isinstance(part, ast.Call | ast.Assign) for one in choice.body for part in ast.walk(one)):
        raise DataError(f"`update` in {module.path} does nothing with another hotkey that is known here")
    test = choice.test
    one_is_enough = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]
    differs = any(
        isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.NotEq) and "hotkey" in text(part)
        for part in one_is_enough
    )
    return Found(differs, module.path, choice.lineno)


def _cut_first(tree: Checkout) -> Found:
    """Whether the window is cut before silent answers leave it, so that they use up its room."""
    module, function = tree.function("get_metrics", _TRACKER)
    silent = next(_comparisons(function, _evaluator(tree, module)), None)
    cuts = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Slice) and "window" in text(node)]
    if silent is None or not cuts:
        raise DataError(f"`get_metrics` in {module.path} cuts no window or leaves out no answers")
    return Found(max(cuts) < silent.lineno, module.path, silent.lineno)


def _marker(function_name: str, pattern: str) -> Callable[[Checkout], Found]:
    def read(tree: Checkout) -> Found:
        module, function = tree.function(function_name, pattern)
        evaluator = _evaluator(tree, module)
        for comparison in _comparisons(function, evaluator):
            return Found(evaluator.value(comparison.comparators[0]), module.path, comparison.lineno)
        raise DataError(f"`{function_name}` in {module.path} compares nothing with a no-answer marker")

    return read


def _assigned_by(name: str) -> Callable[[Checkout], Found]:
    """What is called to make a variable of `get_metrics`, outermost first; without what it is given."""

    def read(tree: Checkout) -> Found:
        module, function = tree.function("get_metrics", _TRACKER)
        for statement in ast.walk(function):
            match statement:
                case ast.Assign(targets=[ast.Name(id=target)], value=ast.Call() as call) if target == name:
                    return Found(list(_called_inside(call)), module.path, call.lineno)
                case _:
                    continue
        raise DataError(f"`get_metrics` in {module.path} calls nothing to make `{name}`")

    return read


def _called_inside(call: ast.Call) -> Iterator[str]:
    if called(call) not in _ARRAYS:
        given = [text(one) for one in call.args if isinstance(one, ast.Constant)]
        yield f"{text(call.func)}({', '.join([*given, '...'])})"
    for inner in call.args:
        if isinstance(inner, ast.Call):
            yield from _called_inside(inner)


# Scores and weights


@dataclass(frozen=True, slots=True)
class _Score:
    """The score after a step, in the reward and the score before."""

    module: Module
    expression: ast.expr
    reward: str
    tree: SourceTree

    def value(self, reward: float, before: float) -> float:
        return float(self._evaluator(reward, before).value(self.expression))

    def others(self) -> list[str]:
        """The source of whatever else it depends on."""
        return self._evaluator(1.0, 1.0).unknown(self.expression)

    def _evaluator(self, reward: float, before: float) -> Evaluator:
        return _evaluator(self.tree, self.module, {self.reward: reward, "self.scores": before})


def _score(tree: SourceTree) -> _Score:
    module, function = tree.function("update_scores", _VALIDATOR)
    trace = Trace(lambda _: False)  # nothing odd: rewards that are numbers, one for each UID
    trace.returned(function)
    expression = trace.values.get("self.scores")
    if expression is None or len(function.args.args) < 2:
        raise DataError(f"`update_scores` in {module.path} makes no `self.scores` of rewards")
    return _Score(module, expression, function.args.args[1].arg, tree)


def _score_share(*, reward: float, before: float) -> Callable[[Checkout], Found]:
    def read(tree: Checkout) -> Found:
        score = tree.score
        return Found(score.value(reward, before), score.module.path, score.expression.lineno)

    return read


def _score_form(tree: Checkout) -> Found:
    score = tree.score
    linear = not score.others() and all(
        math.isclose(score.value(*step), step[0] * score.value(1, 0) + step[1] * score.value(0, 1), abs_tol=1e-12)
        for step in product(_PROBES, _PROBES)
    )
    return Found(_AVERAGE if linear else text(score.expression), score.module.path, score.expression.lineno)


def _score_source(tree: Checkout) -> Found:
    """Where the rewards come from that `forward` hands to `update_scores`."""
    module, function = tree.function("forward", _FORWARD)
    call = next(calls(function, "update_scores"), None)
    rewards = argument(call, "rewards", 0) if call else None
    if call is None or not isinstance(rewards, ast.Name):
        raise DataError(f"`forward` in {module.path} hands no variable to `update_scores`")
    made = [value for name, value in _assignments(function) if name == rewards.id]
    return Found([_maker(value) for value in made], module.path, made[-1].lineno if made else call.lineno)


def _assignments(function: Definition) -> Iterator[tuple[str, ast.expr]]:
    for statement in ast.walk(function):
        match statement:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    names = (part.id for part in ast.walk(target) if isinstance(part, ast.Name))
                    yield from ((name, value) for name in names)
            case ast.AugAssign(target=target, value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                yield ast.unparse(target), value
            case _:
                continue


def _maker(value: ast.expr) -> str:
    return called(value) if isinstance(value, ast.Call) else text(value)


def _weights_source(tree: Checkout) -> Found:
    module, function = tree.function("set_weights", _VALIDATOR)
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Attribute) and text(node) == "self.scores"]
    return Found(bool(uses), module.path, uses[0].lineno if uses else function.lineno)


def _weights_raw(tree: Checkout) -> Found:
    """What `set_weights` hands over to be cut to the chain's limits."""
    module, function = tree.function("set_weights", _VALIDATOR)
    call = next(calls(function, "process_weights_for_netuid"), None)
    given = argument(call, "weights", 1) if call else None
    if given is None:
        raise DataError(f"`set_weights` in {module.path} hands no weights to `process_weights_for_netuid`")
    trace = Trace(lambda _: False)  # nothing odd: a norm that is a number above 0
    trace.returned(function)
    match raw := trace.resolve(given):
        case ast.BinOp(op=ast.Div(), right=ast.Call() as norm) if called(norm) == "norm" and norm.args:
            order = argument(norm, "ord", 1)
            found = f"{text(raw.left)} / {order and text(order)}-norm of {text(norm.args[0])}"
        case _:
            found = text(raw)
    return Found(found, module.path, raw.lineno)


def _constant(name: str, pattern: str) -> Callable[[Checkout], Found]:
    def read(tree: Checkout) -> Found:
        module, expression = tree.constant(name, tree.modules(pattern)[0])
        return Found(_evaluator(tree, module).value(expression), module.path, expression.lineno)

    return read


def _option(flag: str) -> Callable[[Checkout], Found]:
    def read(tree: Checkout) -> Found:
        module, call = tree.option(flag, _OPTIONS)
        value = argument(call, "default")
        if value is None:
            raise DataError(f"option {flag} in {module.path} has no default")
        return Found(_evaluator(tree, module).value(value), module.path, value.lineno)

    return read


# How challenges are sent


def _halted(tree: Checkout) -> Found:
    module, function = tree.function("forward", _FORWARD)
    evaluator = _evaluator(tree, module)
    for statement in function.body:
        if _returns(statement, evaluator):
            return Found(True, module.path, statement.lineno)
        if any(calls(statement, "dendrite")):
            return Found(False, module.path, statement.lineno)
    raise DataError(f"`forward` in {module.path} neither asks miners nor returns before")


def _returns(statement: ast.stmt, evaluator: Evaluator) -> bool:
    if isinstance(statement, ast.If):
        try:
            body = statement.body if evaluator.value(statement.test) else statement.orelse
        except DataError:
            return False
        return any(_returns(inner, evaluator) for inner in body)
    return isinstance(statement, ast.Return | ast.Raise)


def _in_forward(names: Iterable[str], parameter: str, position: int | None = None) -> Callable[[Checkout], Found]:
    """What `forward` passes to the one of these functions that it calls."""

    def read(tree: Checkout) -> Found:
        module, function = tree.function("forward", _FORWARD)
        for call in (call for name in names for call in calls(function, name)):
            value = argument(call, parameter, position)
            if value is None:
                raise DataError(f"`{called(call)}` on line {call.lineno} of {module.path} is given no `{parameter}`")
            return Found(_evaluator(tree, module).value(value), module.path, value.lineno)
        raise DataError(f"`forward` in {module.path} calls neither {' nor '.join(names)}")

    return read


def _forward_calls(word: str) -> Callable[[Checkout], Found]:
    """Whether `forward` calls anything that is named so."""

    def read(tree: Checkout) -> Found:
        module, function = tree.function("forward", _FORWARD)
        found = [call for call in ast.walk(function) if isinstance(call, ast.Call) and word in ast.unparse(call.func)]
        return Found(bool(found), module.path, found[0].lineno if found else function.lineno)

    return read


def _pause(tree: Checkout) -> Found:
    for module in tree.modules(_VALIDATOR):
        for node in ast.walk(module.tree):
            body: list[ast.stmt] = getattr(node, "body", [])
            if isinstance(node, ast.While) and any(text(one) == "self.step += 1" for one in body):
                for one in body:
                    for call in calls(one, "sleep") if isinstance(one, ast.Expr) else ():
                        return Found(_evaluator(tree, module).value(call.args[0]), module.path, call.lineno)
    raise DataError(f"no loop in {_VALIDATOR} sleeps and counts its steps")


def _choice(function: Definition, name: str) -> ast.Call:
    """The random choice that a variable is made by."""
    for target, value in _assignments(function):
        if target == name and isinstance(value, ast.Call) and called(value) == "choice":
            return value
    raise DataError(f"`{function.name}` makes no random choice of `{name}`")


def _shares(call: ast.Call, evaluator: Evaluator) -> dict[Any, float]:
    values = evaluator.value(call.args[0])
    weights = argument(call, "p", 3)
    shares = evaluator.value(weights) if weights else [1 / len(values)] * len(values)
    return dict(zip(values, shares, strict=True))


def _label_shares(tree: Checkout) -> Found:
    module, function = tree.function("determine_challenge_type", _SELECTION)
    call = _choice(function, "label")
    return Found(_shares(call, _evaluator(tree, module)), module.path, call.lineno)


def _source_shares(tree: Checkout) -> Found:
    module, function = tree.function("determine_challenge_type", _SELECTION)
    evaluator = _evaluator(tree, module)
    try:
        call = _choice(function, "source")
        shares = _shares(call, evaluator)
        synthetic, line = shares.pop("synthetic", 0.0), call.lineno
    except DataError:
        synthetic, line = _synthetic_share(tree, function, module)
        shares = {"real": 1 - synthetic}
    i2i = _task_share(function, evaluator)
    found = {"real": shares.pop("real", 0.0), "t2i": synthetic * (1 - i2i), "i2i": synthetic * i2i, **shares}
    return Found(found, module.path, line)


def _task_share(function: Definition, evaluator: Evaluator) -> float:
    for node in ast.walk(function):
        match node:
            case ast.IfExp(test=test, body=ast.Constant(value="i2i"), orelse=ast.Constant(value="t2i")):
                return _probability(test, evaluator)
            case ast.IfExp(test=test, body=ast.Constant(value="t2i"), orelse=ast.Constant(value="i2i")):
                return 1 - _probability(test, evaluator)
            case _:
                continue
    raise DataError(f"`{function.name}` does not choose between `i2i` and `t2i`")


def _synthetic_share(tree: Checkout, function: Definition, module: Module) -> tuple[float, int]:
    """The validator's `fake_prob`, which it hands over to the function that draws the kind of a challenge."""
    neuron = tree.modules(_NEURON)[0]
    made = [
        statement.value
        for statement in ast.walk(neuron.tree)
        if isinstance(statement, ast.Assign) and text(statement.targets[0]) == "self._fake_prob"
    ]
    if len(made) != 1:
        raise DataError(f"{neuron.path} assigns `self._fake_prob` {len(made)} times, expected once")
    share = _evaluator(tree, neuron).value(made[0])
    for target, value in _assignments(function):
        if target == "use_synthetic":
            return _probability(value, _evaluator(tree, module, {"fake_prob": share})), value.lineno
    raise DataError(f"`{function.name}` in {module.path} does not draw `use_synthetic`")


def _probability(test: ast.expr, evaluator: Evaluator) -> float:
    """How often a condition on a uniform random number holds."""
    match test:
        case ast.Compare(left=ast.Call() as draw, ops=[ast.Lt() | ast.LtE()], comparators=[limit]) if called(draw) in (
            "rand",
            "random",
        ):
            return float(evaluator.value(limit))
        case _:
            raise DataError(f"`{text(test)}` compares no random number")


# What happens to the pictures


def _level_shares(tree: Checkout) -> Found:
    module, function = tree.function("apply_augmentation_by_level", _TRANSFORMS)
    value = default(function, "level_probs")
    for one in tree.modules(_FORWARD):
        for call in calls(one.tree, "apply_augmentation_by_level"):
            if passed := argument(call, "level_probs", 3):
                return Found(_evaluator(tree, one).value(passed), one.path, passed.lineno)
    return Found(_evaluator(tree, module).value(value), module.path, value.lineno)


def _pipelines(tree: Checkout) -> tuple[Module, dict[int, list[ast.Call]]]:
    """The steps that each level's pictures go through."""
    module, function = tree.function("apply_augmentation_by_level", _TRANSFORMS)
    steps: dict[int, list[ast.Call]] = {}
    for node in ast.walk(function):
        match node:
            case ast.If(
                test=ast.Compare(
                    left=ast.Name(id="level"), ops=[ast.Eq()], comparators=[ast.Constant(value=int(level))]
                ),
                body=[ast.Assign(value=ast.Call() as made)],
                orelse=otherwise,
            ):
                steps[level] = _steps(tree, called(made))
                match otherwise:
                    case [ast.Assign(value=ast.Call() as last)]:
                        steps[level + 1] = _steps(tree, called(last))
                    case _:
                        pass
            case _:
                continue
    if not steps:
        raise DataError(f"`{function.name}` in {module.path} does not choose by level")
    return module, steps


def _steps(tree: Checkout, name: str) -> list[ast.Call]:
    module, function = tree.function(name, _TRANSFORMS)
    for call in (*calls(function, "ComposeWithParams"), *calls(function, "Compose")):
        if call.args and isinstance(call.args[0], ast.List):
            return [step for step in call.args[0].elts if isinstance(step, ast.Call)]
    raise DataError(f"`{name}` in {module.path} composes no steps")


def _geometry(tree: Checkout) -> Found:
    module, pipelines = _pipelines(tree)
    found: dict[int, str] = {}
    for level, steps in pipelines.items():
        names = " ".join(called(step).lower() for step in steps)
        kinds = [kind for kind, word in (("crop", "crop"), ("letterbox", "padding")) if word in names]
        found[level] = " and ".join(kinds) or "native"
    return Found(found, module.path, pipelines[0][0].lineno)


def _step_values(word: str, parameter: str, position: int | None = None) -> Callable[[Checkout], Found]:
    """What the step with that word in its name is given, by level; levels without it are left out."""

    def read(tree: Checkout) -> Found:
        module, pipelines = _pipelines(tree)
        found: dict[int, Any] = {}
        line = 0
        for level, steps in pipelines.items():
            for step in steps:
                value = argument(step, parameter, position) if word in called(step) else None
                if value is not None:
                    found[level] = _evaluator(tree, module).value(value)
                    line = line or step.lineno
        if not found:
            raise DataError(f"no step of {module.path} is a {word} with `{parameter}`")
        return Found(found, module.path, line)

    return read


def _distortions(tree: Checkout) -> Found:
    module, pipelines = _pipelines(tree)
    evaluator = _evaluator(tree, module)
    found: dict[int, list[tuple[str, int, int]]] = {}
    line = 0
    for level, steps in pipelines.items():
        found[level] = []
        for step in steps:
            if "Distortion" in called(step):
                code, least, most = (argument(step, name, at) for at, name in enumerate(_DISTORTION_PARAMETERS))
                if code is None or least is None or most is None:
                    raise DataError(f"`{text(step)}` on line {step.lineno} of {module.path} names no strengths")
                found[level].append((evaluator.value(code), evaluator.value(least), evaluator.value(most)))
                line = line or step.lineno
    return Found(found, module.path, line)


_DISTORTION_PARAMETERS = ("distortion_type", "level_min", "level_max")


def _distortion_table(tree: Checkout) -> Found:
    module, function = tree.function("get_distortion_parameter", _TRANSFORMS)
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            table = _evaluator(tree, module).value(node)
            known = {code: tuple(table[code][:2]) for code in DISTORTIONS if code in table}
            return Found(known, module.path, node.lineno)
    raise DataError(f"`get_distortion_parameter` in {module.path} has no table")


# The message


def _message_class(tree: Checkout) -> Found:
    module, function = tree.function("prepare_image_synapse", _PROTOCOL)
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
            return Found(called(node.value), module.path, node.lineno)
    raise DataError(f"`prepare_image_synapse` in {module.path} returns no message")


def _message_fields(tree: Checkout) -> Found:
    name = _message_class(tree).value
    module, node = tree.class_(name, _PROTOCOL)
    line, fields = node.lineno, dict[str, tuple[str, Any]]()
    for _ in range(8):  # a chain of classes ends
        own: dict[str, tuple[str, Any]] = {}
        for statement in node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=field), annotation=kind, value=ast.expr() as value):
                    if isinstance(value, ast.Call) and called(value) == "Field":
                        value = argument(value, "default", 0) or value
                    own[field] = (ast.unparse(kind), _evaluator(tree, module).value(value))
                case _:
                    continue
        fields = {**own, **fields}
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if not bases:
            return Found(fields, module.path, line)
        module, node = tree.class_(bases[0], _PROTOCOL)
    raise DataError(f"the classes above `{name}` in {module.path} do not end")


def _picture_format(tree: Checkout) -> Found:
    module, function = tree.function("prepare_image_synapse", _PROTOCOL)
    for call in calls(function, "save"):
        found = {keyword.arg: _evaluator(tree, module).value(keyword.value) for keyword in call.keywords if keyword.arg}
        return Found(found, module.path, call.lineno)
    raise DataError(f"`prepare_image_synapse` in {module.path} saves no picture")


def _always(value: Any) -> Callable[[Regime], Any]:
    return lambda _: value


def _augmented(regime: Regime) -> bool:
    return regime.augmented


def _cropped(regime: Regime) -> bool:
    return regime.geometry == "crop"


def _active(regime: Regime) -> bool:
    return not regime.halted


_DRAWN_LEVELS = LEVELS[1:]  # those with anything random

FACTS: tuple[Fact, ...] = (
    Fact("validators are halted", _halted, lambda regime: regime.halted),
    Fact("reward, other terms", _reward_others, _always([])),
    Fact("reward, formula", _reward_form, _always(_POWER_OF_SUM)),
    Fact("reward, exponent", _reward_exponent, lambda regime: regime.reward_exponent),
    Fact("reward, weight of the MCC", _reward_weight("mcc"), _always(MCC_WEIGHT)),
    Fact("reward, weight of the accuracy", _reward_weight("accuracy"), _always(ACCURACY_WEIGHT)),
    Fact("reward, window of the MCC", _reward_window("mcc"), _always(MCC_WINDOW)),
    Fact("reward, window of the accuracy", _reward_window("accuracy"), _always(ACCURACY_WINDOW)),
    Fact("reward, penalty by prediction", _penalty, _always({p: penalty(p) for p in _PENALTY_PROBES})),
    Fact("reward, no-answer marker", _marker("get_rewards", _REWARD), _always(NO_ANSWER)),
    Fact("reward needs a registered model", _needs_model, lambda regime: regime.model_check),
    Fact("history, answers", _history, _always(HISTORY)),
    Fact("history, no-answer marker", _marker("get_metrics", _TRACKER), _always(NO_ANSWER)),
    Fact("history, every answer is remembered", _remembers, _always(True)),
    Fact("history, begins anew with another hotkey", _forgets, _always(True)),
    Fact("history, is cut before silent answers leave", _cut_first, _always(True)),
    Fact("history, classes", _assigned_by("predictions"), _always(["np.round(...)"])),
    Fact("history, accuracy", _assigned_by("accuracy"), _always(["accuracy_score(...)"])),
    Fact("history, MCC", _assigned_by("mcc"), _always(["max(0, ...)", "matthews_corrcoef(...)"])),
    Fact("score, formula", _score_form, _always(_AVERAGE)),
    Fact("score, share of the newest reward", _score_share(reward=1, before=0), _always(SCORE_ALPHA)),
    Fact("score, share of the score before", _score_share(reward=0, before=1), _always(1 - SCORE_ALPHA)),
    Fact("score, made of", _score_source, _always(["get_rewards"])),
    Fact("weights are made of the scores", _weights_source, _active),
    Fact("weights, raw", _weights_raw, _always("self.scores / 1-norm of self.scores"), _active),
    Fact("weights, largest", _constant("U16_MAX", _WEIGHTS), _always(WEIGHT_MAX)),
    Fact("stake limit", _option("--neuron.vpermit_tao_limit"), _always(STAKE_LIMIT_TAO)),
    Fact("epoch, blocks", _option("--neuron.epoch_length"), _always(EPOCH_BLOCKS)),
    Fact("miners asked at once", _in_forward(("next_k", "get_random_uids"), "k"), _always(AUDIENCE_SIZE)),
    Fact("miners are dealt from a deck", _forward_calls("deck"), lambda regime: regime.uid_deck),
    Fact("timeout, s", _in_forward(("dendrite",), "timeout"), _always(TIMEOUT_S)),
    Fact("pause between steps, s", _pause, lambda regime: regime.step_s, _active),
    Fact("shares of the labels", _label_shares, _always({0: 0.5, 1: 0.5})),
    Fact("shares of the sources", _source_shares, lambda regime: regime.source_shares, _active),
    Fact("pictures are augmented", _forward_calls("augment"), _augmented),
    Fact(
        "wire size, px",
        _constant("TARGET_IMAGE_SIZE", _TRANSFORMS),
        lambda regime: (regime.wire_size_px, regime.wire_size_px),
        _augmented,
    ),
    Fact(
        "shares of the levels",
        _level_shares,
        _always({level: 1 / len(LEVELS) for level in LEVELS}),
        _augmented,
    ),
    Fact("geometry by level", _geometry, lambda regime: dict.fromkeys(LEVELS, regime.geometry), _augmented),
    Fact(
        "angle by level, degrees",
        _step_values("Rotation", "degrees", 0),
        _always(dict.fromkeys(_DRAWN_LEVELS, MAX_ANGLE_DEG)),
        _augmented,
    ),
    Fact(
        "crop by level, share of the area",
        _step_values("Crop", "scale"),
        _always(dict.fromkeys(_DRAWN_LEVELS, CROP_AREA)),
        _cropped,
    ),
    Fact(
        "crop by level, width to height",
        _step_values("Crop", "ratio"),
        _always(dict.fromkeys(_DRAWN_LEVELS, (1.0, 1.0))),
        _cropped,
    ),
    Fact(
        "distortions by level, weakest and strongest",
        _distortions,
        _always({level: [(code, 0, most) for code, most in codes.items()] for level, codes in STRONGEST.items()}),
        _augmented,
    ),
    Fact("distortions, parameters", _distortion_table, _always(DISTORTIONS), _augmented),
    Fact("message, class", _message_class, lambda regime: regime.synapse),
    Fact("message, fields", _message_fields, lambda regime: regime.message),
    Fact("message, picture", _picture_format, _always({"format": "JPEG"})),  # Pillow's own quality: 75
)
