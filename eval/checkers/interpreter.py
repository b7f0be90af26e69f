"""A small interpreter for answers written in a harmless subset of Python.

Nothing is ever given to ``exec`` or ``eval``: the text is parsed to a syntax tree and the tree is
walked. There are numbers, texts, booleans, None, lists and tuples; arithmetic, comparisons,
conditionals, comprehensions, assignments to names, ``if``, bounded loops, plain functions, and the
functions and text methods of ``operations``. No attribute is ever looked up, so there is
nothing to escape through. Every node visited and every element seen is charged to a budget, and
results whose size can be known in advance are refused before they are computed. Anything else, and
anything that fails, raises ``Refused``.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm.eval.checkers.operations import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    MAX_BITS,
    MAX_SIZE,
    METHODS,
    Refused,
    power,
    repeat,
)

MAX_SOURCE = 4_000
"""Longest program in characters."""
MAX_WORK = 200_000
"""Nodes and elements one call may visit."""
MAX_CALLS = 40
"""Deepest recursion of the program's own functions."""


def run_function(source: str, name: str, arguments: Sequence[Any]) -> Any:
    """Calls function ``name`` of ``source``; a lambda or a lone function may have any name.

    Args:
        source: One or more ``def``, or one ``lambda``.
        name: The function to call.
        arguments: JSON values.

    Raises:
        Refused: Whatever goes wrong.
    """
    machine = _Machine(parse(source))
    function = machine.functions.get(name)
    if function is None and len(machine.functions) == 1:
        function = next(iter(machine.functions.values()))
    if function is None:
        raise Refused("no such function")
    try:
        return machine.call(function, list(arguments))
    except Refused:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise Refused(type(error).__name__) from None


def parse(source: str) -> dict[str, ast.FunctionDef | ast.Lambda]:
    """The functions of a program by name; a lambda is called ``lambda``.

    Raises:
        Refused: Not Python, too long, or anything but functions at the top.
    """
    if len(source) > MAX_SOURCE:
        raise Refused("source too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused("not Python") from None
    match body:
        case [ast.Expr(value=ast.Lambda() as function)]:
            return {"lambda": function}
        case [ast.Assign(targets=[ast.Name(id=name)], value=ast.Lambda() as function)]:
            return {name: function}
    functions: dict[str, ast.FunctionDef | ast.Lambda] = {}
    for statement in body:
        if not isinstance(statement, ast.FunctionDef) or statement.decorator_list:
            raise Refused("only functions stand at the top")
        functions[statement.name] = statement
    return functions


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


Scope = dict[str, Any]


@dataclass
class _Machine:
    """One call's budget and the program's functions."""

    functions: dict[str, ast.FunctionDef | ast.Lambda]
    work: int = 0
    depth: int = 0

    def spend(self, amount: int = 1) -> None:
        self.work += amount
        if self.work > MAX_WORK:
            raise Refused("too much work")

    def admit(self, value: Any) -> Any:
        """``value``, measured: types, integer width, nested size; charged to the budget."""
        pending, size = [value], 0
        while pending:
            item = pending.pop()
            size += 1
            if isinstance(item, list | tuple):
                size += len(item)
                pending.extend(item if size <= MAX_SIZE else ())
            elif isinstance(item, str):
                size += len(item)
            elif isinstance(item, int):
                if item.bit_length() > MAX_BITS:
                    raise Refused("integer too wide")
            elif not isinstance(item, float | None):
                raise Refused("value of another type")
            if size > MAX_SIZE:
                raise Refused("value too large")
        self.spend(size)
        return value

    def call(self, function: ast.FunctionDef | ast.Lambda, values: list[Any]) -> Any:
        """The function's result for ``values``."""
        names = function.args
        if names.posonlyargs or names.kwonlyargs or names.vararg or names.kwarg or names.defaults:
            raise Refused("only plain parameters")
        if len(names.args) != len(values):
            raise Refused("wrong number of arguments")
        if self.depth >= MAX_CALLS:
            raise Refused("recursion too deep")
        self.depth += 1
        scope = {name.arg: value for name, value in zip(names.args, values, strict=True)}
        try:
            if isinstance(function, ast.Lambda):
                return self.value(function.body, scope)
            self.block(function.body, scope)
        except _Return as result:
            return result.value
        except (_Break, _Continue):
            raise Refused("outside a loop") from None
        finally:
            self.depth -= 1
        return None

    def block(self, statements: Sequence[ast.stmt], scope: Scope) -> None:
        for statement in statements:
            self.spend()
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.Return(value=value):
                raise _Return(None if value is None else self.value(value, scope))
            case ast.Assign(targets=[target], value=value):
                self.assign(target, self.value(value, scope), scope)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                scope[name] = self.binary(op, self.name(name, scope), self.value(value, scope))
            case ast.If(test=test, body=body, orelse=orelse):
                self.block(body if self.value(test, scope) else orelse, scope)
            case ast.For() | ast.While():
                self.loop(node, scope)
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="append"), keywords=[]) as call):
                self.append(call, scope)
            case ast.Break():
                raise _Break
            case ast.Continue():
                raise _Continue
            case _:
                raise Refused(type(node).__name__)

    def append(self, call: ast.Call, scope: Scope) -> None:
        """``x.append(y)``: a statement only, so that no value changes within an expression."""
        assert isinstance(call.func, ast.Attribute)
        target = self.value(call.func.value, scope)
        if not isinstance(target, list) or len(call.args) != 1:
            raise Refused("append to something else")
        target.append(self.value(call.args[0], scope))

    def loop(self, node: ast.For | ast.While, scope: Scope) -> None:
        for _ in self.turns(node, scope):
            try:
                self.block(node.body, scope)
            except _Continue:
                continue
            except _Break:
                return
        self.block(node.orelse, scope)

    def turns(self, node: ast.For | ast.While, scope: Scope) -> Iterator[None]:
        """One item per pass through the loop's body."""
        if isinstance(node, ast.While):
            while self.value(node.test, scope):
                yield
            return
        for item in list(self.items(node.iter, scope)):
            self.spend()
            self.assign(node.target, item, scope)
            yield

    def assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                scope[name] = value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                if not isinstance(value, list | tuple | str) or len(value) != len(parts):
                    raise Refused("cannot unpack")
                for part, item in zip(parts, value, strict=True):
                    self.assign(part, item, scope)
            case _:
                raise Refused("assignment to something else")

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """The measured value of an expression."""
        self.spend()
        return self.admit(self.expression(node, scope))

    def items(self, node: ast.expr, scope: Scope) -> Sequence[Any]:
        found = self.value(node, scope)
        if not isinstance(found, list | tuple | str):
            raise Refused("not a sequence")
        return found

    def name(self, name: str, scope: Scope) -> Any:
        if name not in scope:
            raise Refused("unknown name")
        return scope[name]

    def expression(self, node: ast.expr, scope: Scope) -> Any:  # noqa: C901 (one case per node)
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self.name(name, scope)
            case ast.List(elts=parts):
                return [self.value(part, scope) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple([self.value(part, scope) for part in parts])
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(op, self.value(left, scope), self.value(right, scope))
            case ast.UnaryOp(op=sign, operand=operand):
                return self.unary(sign, self.value(operand, scope))
            case ast.BoolOp(op=join, values=parts):
                return self.boolean(join, parts, scope)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self.compare(left, ops, others, scope)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if self.value(test, scope) else orelse, scope)
            case ast.Subscript(value=inner, slice=index):
                return self.items(inner, scope)[self.index(index, scope)]
            case ast.ListComp(elt=element, generators=generators):
                return list(self.comprehend(element, generators, scope))
            case ast.Call():
                return self.call_expression(node, scope)
        raise Refused(type(node).__name__)

    def index(self, node: ast.expr, scope: Scope) -> Any:
        if not isinstance(node, ast.Slice):
            return self.value(node, scope)
        bounds = (node.lower, node.upper, node.step)
        return slice(*(None if b is None else self.value(b, scope) for b in bounds))

    def comprehend(
        self, element: ast.expr, generators: Sequence[ast.comprehension], scope: Scope
    ) -> Iterator[Any]:
        if not generators:
            yield self.value(element, scope)
            return
        first, rest = generators[0], generators[1:]
        if first.is_async:
            raise Refused("async")
        for item in self.items(first.iter, scope):
            self.spend()
            inner = dict(scope)
            self.spend(len(inner))
            self.assign(first.target, item, inner)
            if all(self.value(condition, inner) for condition in first.ifs):
                yield from self.comprehend(element, rest, inner)

    def unary(self, op: ast.unaryop, value: Any) -> Any:
        if isinstance(op, ast.Not):
            return not value
        if not isinstance(value, int | float) or isinstance(op, ast.Invert):
            raise Refused("sign of something else")
        return -value if isinstance(op, ast.USub) else +value

    def boolean(self, op: ast.boolop, parts: Sequence[ast.expr], scope: Scope) -> Any:
        value: Any = None
        for part in parts:
            value = self.value(part, scope)
            if bool(value) == isinstance(op, ast.Or):
                break
        return value

    def compare(
        self,
        left: ast.expr,
        ops: Sequence[ast.cmpop],
        others: Sequence[ast.expr],
        scope: Scope,
    ) -> bool:
        value = self.value(left, scope)
        for op, other in zip(ops, others, strict=True):
            right = self.value(other, scope)
            if not COMPARISONS[type(op)](value, right):
                return False
            value = right
        return True

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if isinstance(op, ast.Pow):
            return power(left, right)
        if isinstance(op, ast.Mult) and not numbers:
            return repeat(left, right)
        if not numbers and not isinstance(op, ast.Add):
            raise Refused("arithmetic on something else")
        if type(op) not in ARITHMETIC:
            raise Refused(type(op).__name__)
        return self.admit(ARITHMETIC[type(op)](left, right))

    def call_expression(self, node: ast.Call, scope: Scope) -> Any:
        if any(keyword.arg is None for keyword in node.keywords):
            raise Refused("unpacked arguments")
        values = [self.argument(argument, scope) for argument in node.args]
        named = {str(k.arg): self.value(k.value, scope) for k in node.keywords}
        match node.func:
            case ast.Name(id=name) if name in FUNCTIONS and name not in scope:
                return FUNCTIONS[name](*values, **named)
            case ast.Name(id=name) if name in self.functions and not named:
                return self.call(self.functions[name], values)
            case ast.Attribute(value=owner, attr=name) if name in METHODS and not named:
                text = self.value(owner, scope)
                if not isinstance(text, str):
                    raise Refused("method of something else")
                return METHODS[name](text, *values)
        raise Refused("call of something else")

    def argument(self, node: ast.expr, scope: Scope) -> Any:
        """An argument; a generator expression becomes the list of its items."""
        if isinstance(node, ast.GeneratorExp):
            return self.admit(list(self.comprehend(node.elt, node.generators, scope)))
        return self.value(node, scope)
