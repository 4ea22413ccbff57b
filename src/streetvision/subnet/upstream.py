"""Another project's Python source, read and never run: its constants, its calls, and what its functions compute."""

import ast
import copy
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streetvision.errors import DataError

Definition = ast.FunctionDef | ast.AsyncFunctionDef

_FILE_MAX_BYTES = 4 << 20
_NODES_MAX = 5000  # of one expression; real ones have less than a hundred
_POWER_MAX = 64
_BITS_MAX = 1024
_FORKS_MAX = 50
_SHOWN = 80

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _itself(value: Any) -> Any:
    return value


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "max": max,
    "min": min,
    "pow": pow,
    "np.power": pow,
    "list": list,
    "tuple": tuple,
    # an array stands for each of its values
    "np.array": _itself,
    "np.asarray": _itself,
    "np.float32": _itself,
}


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed file.

    Attributes:
        path: relative to the checkout.
        tree: its source.
        definitions: its functions, methods and classes, by their names with those of the classes around them.
    """

    path: str
    tree: ast.Module
    definitions: tuple[tuple[str, Definition | ast.ClassDef], ...]


class SourceTree:
    """A checkout whose files are parsed when something is looked for in them.

    Args:
        root: folder of the checkout.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"`{root}` is no folder, expected a checkout of the source")
        self._root = root
        self._modules: dict[Path, Module] = {}

    def modules(self, *patterns: str) -> list[Module]:
        """The files that match one of the patterns, parsed.

        Raises:
            DataError: there is none, or one is no Python.
        """
        paths = sorted({path for pattern in patterns for path in self._root.glob(pattern) if path.is_file()})
        if not paths:
            raise DataError(f"no file {' or '.join(patterns)}")
        return [self._module(path) for path in paths]

    def _module(self, path: Path) -> Module:
        if path not in self._modules:
            name = path.relative_to(self._root).as_posix()
            try:
                data = path.read_bytes()
                if len(data) > _FILE_MAX_BYTES:
                    raise DataError(f"{name} has more than {_FILE_MAX_BYTES:,} bytes")
                with warnings.catch_warnings(action="ignore"):  # of somebody else's style
                    tree = ast.parse(data)
                self._modules[path] = Module(name, tree, tuple(_definitions(tree)))
            except OSError as err:
                raise DataError(f"cannot read {name}: {err.strerror}") from err
            except SyntaxError as err:
                raise DataError(f"{name} is no Python: line {err.lineno}, {err.msg}") from err
            except (ValueError, RecursionError, MemoryError) as err:
                raise DataError(f"{name} is no Python: {err}") from err
        return self._modules[path]

    def function(self, name: str, *patterns: str) -> tuple[Module, Definition]:
        """The one function or method of that name, `Class.method` or the last part alone.

        Raises:
            DataError: there is none, or there are several.
        """
        found = [
            (module, node)
            for module in self.modules(*patterns)
            for qualified, node in module.definitions
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and f".{qualified}".endswith(f".{name}")
        ]
        return _only(found, f"function `{name}`", patterns)

    def class_(self, name: str, *patterns: str) -> tuple[Module, ast.ClassDef]:
        """The one class of that name.

        Raises:
            DataError: there is none, or there are several.
        """
        found = [
            (module, node)
            for module in self.modules(*patterns)
            for _, node in module.definitions
            if isinstance(node, ast.ClassDef) and node.name == name
        ]
        return _only(found, f"class `{name}`", patterns)

    def constant(self, name: str, module: Module) -> tuple[Module, ast.expr]:
        """What a module's name stands for: where it is assigned, in that module or in the one it is imported from.

        Raises:
            DataError: it is assigned nowhere, or more than once.
        """
        for _ in range(8):  # a chain of imports ends
            values = [value for statement in module.tree.body if (value := _assigned(statement, name)) is not None]
            if len(values) > 1:
                raise DataError(f"{module.path} assigns `{name}` {len(values)} times")
            if values:
                return module, values[0]
            source, name = _import(module, name)
            module = self.modules(f"{source.replace('.', '/')}.py", f"{source.replace('.', '/')}/__init__.py")[0]
        raise DataError(f"`{name}` is imported in a circle")

    def declares(self, name: str, module: Module) -> bool:
        """Whether a module assigns or imports a name."""
        if any(_assigned(statement, name) is not None for statement in module.tree.body):
            return True
        try:
            return bool(_import(module, name))
        except DataError:
            return False

    def option(self, flag: str, *patterns: str) -> tuple[Module, ast.Call]:
        """The one call that adds a command-line option.

        Raises:
            DataError: there is none, or there are several.
        """
        found = [
            (module, call)
            for module in self.modules(*patterns)
            for call in calls(module.tree, "add_argument")
            if any(isinstance(argument, ast.Constant) and argument.value == flag for argument in call.args)
        ]
        return _only(found, f"option `{flag}`", patterns)


def _only(found: list[Any], what: str, patterns: Sequence[str]) -> Any:
    if len(found) != 1:
        places = ", ".join(f"{module.path}:{node.lineno}" for module, node in found)
        raise DataError(f"{f'{what} stands in {places}' if found else f'no {what}'} in {' or '.join(patterns)}")
    return found[0]


def _definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition | ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.excepthandler):
            yield from _definitions(child, prefix)


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    match statement:
        case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
            return value
        case ast.AnnAssign(target=ast.Name(id=target), value=value) if target == name:
            return value
        case _:
            return None


def _import(module: Module, name: str) -> tuple[str, str]:
    for statement in ast.walk(module.tree):
        if isinstance(statement, ast.ImportFrom) and statement.module and statement.level == 0:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return statement.module, alias.name
    raise DataError(f"{module.path} does not say what `{name}` is")


def text(node: ast.AST) -> str:
    """The source of a node on one line, cut off where it is long."""
    line = " ".join(ast.unparse(node).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
    """Calls of a function or method of that name, in the order of the source."""
    found = [call for call in ast.walk(node) if isinstance(call, ast.Call) and called(call) == name]
    yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))


def called(call: ast.Call) -> str:
    """The last part of the name that is called; empty where it has none."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """What is passed for a parameter, by name or by position; None where nothing is."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    return call.args[position] if position is not None and position < len(call.args) else None


def default(function: Definition, name: str) -> ast.expr:
    """The default of a parameter.

    Raises:
        DataError: there is no such parameter, or it has no default.
    """
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    pairs = [*zip(reversed(positional), reversed(spec.defaults), strict=False)]
    pairs += [(one, value) for one, value in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if value is not None]
    for one, value in pairs:
        if one.arg == name:
            return value
    raise DataError(f"`{function.name}` has no parameter `{name}` with a default")


class Evaluator:
    """Computes expressions of numbers, texts and containers; whatever else stands in them must be known.

    Args:
        tree: where constants and the defaults of options are looked up.
        module: where the expressions stand.
        options: patterns of the files that add command-line options.
        known: the values of names, attributes, calls and so on, by their source.
    """

    def __init__(
        self, tree: SourceTree, module: Module, *, options: Sequence[str] = (), known: Mapping[str, Any] | None = None
    ) -> None:
        self._tree, self._module, self._options = tree, module, options
        self._known = known or {}

    def value(self, node: ast.expr) -> Any:
        """The value of an expression.

        Raises:
            DataError: it cannot be computed from what is known.
        """
        try:
            return self._value(node)
        except DataError:
            raise
        except (ArithmeticError, TypeError, ValueError, LookupError, RecursionError) as err:
            raise DataError(f"cannot compute `{text(node)}`: {err}") from err

    def unknown(self, node: ast.expr) -> list[str]:
        """The source of the parts of an expression that nothing is known of, smallest ones.

        Raises:
            DataError: a part has a value, in the source or as an option, that cannot be read.
        """
        try:
            self.value(node)
        except DataError:
            if isinstance(node, ast.Name) and self._tree.declares(node.id, self._module):
                raise
            if self._options and _flag(node):
                raise
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
            transparent = isinstance(node, ast.BinOp | ast.UnaryOp | ast.BoolOp | ast.Compare | ast.IfExp)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in _FUNCTIONS:
                transparent, inner = True, node.args
            if not transparent:
                return [text(node)]
            return sorted({part for child in inner for part in self.unknown(child)})
        return []

    def _value(self, node: ast.expr) -> Any:
        if self._known and isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
            source = ast.unparse(node)
            if source in self._known:
                return self._known[source]
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                module, expression = self._tree.constant(name, self._module)
                return Evaluator(self._tree, module, options=self._options).value(expression)
            case ast.Attribute() | ast.Call() if self._options and (flag := _flag(node)):
                return self._option(flag, node)
            case ast.Tuple(elts=items):
                return tuple(self._value(item) for item in items)
            case ast.List(elts=items):
                return [self._value(item) for item in items]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {self._value(key): self._value(item) for key, item in zip(keys, values, strict=True) if key}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._number(op, self._value(left), self._value(right))
            case ast.BoolOp(op=op, values=items):
                value = self._value(items[0])
                for item in items[1:]:
                    if bool(value) != isinstance(op, ast.And):
                        break
                    value = self._value(item)
                return value
            case ast.Compare(left=left, ops=ops, comparators=rights) if all(type(op) in _COMPARISONS for op in ops):
                values = [self._value(item) for item in (left, *rights)]
                return all(_COMPARISONS[type(op)](*values[at : at + 2]) for at, op in enumerate(ops))
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                return self._value(body if self._value(test) else otherwise)
            case ast.Call(func=ast.Attribute(value=container, attr="keys"), args=[]):
                return list(self._value(container))
            case ast.Call(func=function, args=items, keywords=[]) if ast.unparse(function) in _FUNCTIONS:
                return _FUNCTIONS[ast.unparse(function)](*(self._value(item) for item in items))
            case _:
                raise DataError(f"`{text(node)}` is not known")

    def _number(self, op: ast.operator, left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TypeError("no numbers")
        if isinstance(op, ast.Pow) and abs(right) > _POWER_MAX:
            raise ValueError("the power is too high")
        result = _OPERATORS[type(op)](left, right)
        if isinstance(result, complex):
            raise ValueError("the root of a negative number")
        if isinstance(result, int) and result.bit_length() > _BITS_MAX:
            raise ValueError("the number is too large")
        return result

    def _option(self, flag: str, node: ast.expr) -> Any:
        try:
            module, call = self._tree.option(flag, *self._options)
        except DataError:
            if isinstance(node, ast.Call) and len(node.args) == 2:  # config.get(name, default)
                return self._value(node.args[1])
            raise
        value = argument(call, "default")
        if value is None:
            raise ValueError(f"option {flag} has no default")
        return Evaluator(self._tree, module, options=self._options).value(value)


def _flag(node: ast.expr) -> str | None:
    """The option that an attribute such as `self.config.neuron.timeout` stands for."""
    if isinstance(node, ast.Call):
        match node:
            case ast.Call(func=ast.Attribute(value=container, attr="get"), args=[ast.Constant(value=str(name)), *_]):
                return f"--{name}" if ast.unparse(container).split(".")[-1] == "config" else None
            case _:
                return None
    found = re.fullmatch(r"(?:\w+\.)*config\.(\w+(?:\.\w+)*)", ast.unparse(node))
    return f"--{found[1]}" if found else None


@dataclass(frozen=True, slots=True)
class _End:
    """How a body ended before its last statement: it returned, it raised, or it left a loop."""

    returned: ast.expr | None = None
    raised: bool = False


class Trace:
    """What a function's variables are made of, followed through its body without running it.

    A loop is gone through once, and of `try` the part without failures. A container counts as what was put into it
    last. Where `decide` does not know a condition, both sides are followed and kept as a conditional expression.

    Args:
        decide: whether a condition holds; None where that is not known.

    Attributes:
        values: expression of each variable and attribute, in what the function was given.
    """

    def __init__(self, decide: Callable[[ast.expr], bool | None] = lambda _: None) -> None:
        self.values: dict[str, ast.expr] = {}
        self._decide = decide
        self._containers: set[str] = set()
        self._forks = 0

    def returned(self, function: Definition) -> ast.expr | None:
        """What the function returns; None for nothing.

        Raises:
            DataError: the body has statements that cannot be followed.
        """
        end = self._follow(function.body)
        return end.returned if end else None

    def _follow(self, body: Sequence[ast.stmt]) -> _End | None:
        for index, statement in enumerate(body):
            end: _End | None = None
            match statement:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._store(target, self.resolve(value))
                case ast.AnnAssign(target=target, value=value) if value:
                    self._store(target, self.resolve(value))
                case ast.AugAssign(target=target, op=op, value=value):
                    after = ast.BinOp(left=self.resolve(target), op=op, right=self.resolve(value))
                    self._store(target, ast.copy_location(after, statement))
                case ast.Expr(value=ast.Call(func=ast.Attribute(value=container, attr="append"), args=[item])):
                    self._put(container, self.resolve(item))
                case ast.Return(value=value):
                    end = _End(returned=self.resolve(value) if value else ast.Constant(value=None))
                case ast.Raise():
                    end = _End(raised=True)
                case ast.Continue() | ast.Break():
                    end = _End()
                case ast.For() | ast.AsyncFor() | ast.While():
                    self._loop(statement.body)
                case ast.With() | ast.AsyncWith() | ast.Try():
                    end = self._follow(statement.body)
                case ast.If(test=test, body=then, orelse=otherwise) if _matters(statement):
                    known = self._decide(test)
                    if known is None:
                        return self._fork(self.resolve(test), then, otherwise, body[index + 1 :])
                    end = self._follow(then if known else otherwise)
                case ast.Match():
                    raise DataError(f"`match` on line {statement.lineno} cannot be followed")
                case _:
                    pass
            if end:
                return end
        return None

    def _fork(
        self, test: ast.expr, then: Sequence[ast.stmt], otherwise: Sequence[ast.stmt], rest: Sequence[ast.stmt]
    ) -> _End | None:
        self._forks += 1
        if self._forks > _FORKS_MAX:
            raise DataError(f"`{text(test)}` on line {test.lineno} is one condition too many to be followed")
        values, containers = self.values, self._containers
        sides: list[tuple[_End | None, dict[str, ast.expr]]] = []
        for branch in (then, otherwise):
            self.values, self._containers = dict(values), set(containers)
            sides.append((self._follow([*branch, *rest]), self.values))
            containers |= self._containers
        self._containers = containers
        (end, one), (other_end, other) = sides
        if end and end.raised:
            self.values = other
            return other_end
        if other_end and other_end.raised:
            self.values = one
            return end
        self.values = {name: _either(test, one.get(name), other.get(name)) for name in {**one, **other}}
        returned, other_returned = end and end.returned, other_end and other_end.returned
        if returned or other_returned:
            return _End(returned=_either(test, returned, other_returned))
        return end and other_end

    def _loop(self, body: Sequence[ast.stmt]) -> None:
        end = self._follow(body)
        if end and end.returned:
            raise DataError(f"the `return` in the loop above line {body[-1].end_lineno} cannot be followed")

    def resolve(self, node: ast.expr) -> ast.expr:
        """An expression in terms of what the function was given.

        Raises:
            DataError: it grows beyond all measure.
        """
        resolved = _Substitution(self.values, self._containers).visit(copy.deepcopy(node))
        if sum(1 for _ in ast.walk(resolved)) > _NODES_MAX:
            raise DataError(f"`{text(node)}` on line {node.lineno} is too long to be followed")
        return resolved

    def _store(self, target: ast.expr, value: ast.expr) -> None:
        match target:
            case ast.Name() | ast.Attribute():
                self.values[ast.unparse(target)] = value
                self._containers.discard(ast.unparse(target))
            case ast.Subscript(value=container):
                self._put(container, value)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                for index, item in enumerate(items):
                    part = ast.Subscript(value=value, slice=ast.Constant(value=index), ctx=ast.Load())
                    self._store(item, ast.copy_location(part, target))
            case _:
                raise DataError(f"the assignment to `{text(target)}` cannot be followed")

    def _put(self, container: ast.expr, value: ast.expr) -> None:
        self.values[ast.unparse(container)] = value
        self._containers.add(ast.unparse(container))


def _matters(node: ast.stmt) -> bool:
    """Whether a statement changes a variable or the way through the function."""
    kinds = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Raise | ast.Continue | ast.Break | ast.Match
    return any(isinstance(part, kinds) for part in ast.walk(node)) or any(calls(node, "append"))


def _either(test: ast.expr, one: ast.expr | None, other: ast.expr | None) -> ast.expr:
    if one is not None and other is not None and ast.unparse(one) == ast.unparse(other):
        return one
    nothing = ast.Constant(value=None)
    return ast.copy_location(ast.IfExp(test=test, body=one or nothing, orelse=other or nothing), test)


class _Substitution(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr], containers: set[str]) -> None:
        self._values, self._containers = values, containers

    def visit(self, node: ast.AST) -> Any:
        """The node with all variables replaced; a container's item by the container."""
        match node:
            case ast.Subscript(value=container) if ast.unparse(container) in self._containers:
                return copy.deepcopy(self._values[ast.unparse(container)])
            case ast.Call(func=ast.Attribute(value=container, attr="get")) if (
                ast.unparse(container) in self._containers
            ):
                return copy.deepcopy(self._values[ast.unparse(container)])
            case ast.Name() | ast.Attribute() if (value := self._values.get(ast.unparse(node))) is not None:
                return copy.deepcopy(value)
            case _:
                return self.generic_visit(node)


def same(found: Any, expected: Any) -> bool:
    """Whether two values are equal; numbers up to rounding, lists and tuples alike."""
    match found, expected:
        case (bool(), _) | (_, bool()):
            return found is expected
        case (int() | float(), int() | float()):
            return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
        case (dict(), Mapping()):
            return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in found)
        case (list() | tuple(), list() | tuple()):
            return len(found) == len(expected) and all(same(*pair) for pair in zip(found, expected, strict=True))
        case _:
            return found == expected
