"""Arithmetic that a model asks for: an expression is read as a tree, never run, and bounded in every way."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

LONGEST = 300  # characters of an expression
LARGEST = 10**60  # of any number on the way
FUNCTIONS: dict[str, Callable[..., float]] = {
    name: getattr(math, name) for name in ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "floor", "ceil")
} | {"abs": abs, "round": lambda number: round(number), "min": min, "max": max}
CONSTANTS = {"pi": math.pi, "e": math.e}
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class NoResult(Exception):
    """The tool has no answer; the text says why."""


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, "^" and "**" for powers. Raises NoResult."""
    try:
        value = _value(parsed(expression))
    except (ArithmeticError, ValueError, TypeError) as error:
        raise NoResult(f"it cannot be calculated: {error}") from None
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def parsed(expression: str) -> ast.expr:
    """The expression's tree. Raises NoResult for what is too long, too deep or no expression."""
    if len(expression) > LONGEST:
        raise NoResult(f"the expression is longer than {LONGEST} characters")
    written = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    try:
        return ast.parse(written, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoResult("it is no arithmetic expression") from None


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _bounded(OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return _bounded(FUNCTIONS[name](*map(_value, arguments)))
    raise NoResult("it holds more than numbers, + - * / ^ and functions such as sqrt")


def power(base: float, exponent: float) -> float:
    """base ** exponent, refused before it is computed when it would be too large. Raises NoResult."""
    if abs(base) > 1 and exponent * math.log(abs(base)) > math.log(LARGEST):
        raise NoResult("the result is too large")
    if abs(exponent) > math.log2(LARGEST) and abs(base) != 1:
        base = float(base)
    found = base**exponent
    if isinstance(found, complex):
        raise NoResult("the result is no real number")
    return _bounded(found)


def _bounded(number: float) -> float:
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise NoResult("the result is too large")
    return number
