"""Equations that a model asks to solve: linear ones, several at once, and quadratic ones, in exact fractions."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from fractions import Fraction

from ftx.tools.calculate import LARGEST, NoResult, parsed

MOST = 6  # equations at once
# A product of letters, at most two, and its factor: {("x", "x"): 1, ("x",): -2, (): 1} is x*x - 2x + 1.
Poly = dict[tuple[str, ...], Fraction]
QUADRATIC = 2


def solve(equations: str) -> str:
    """The solutions of equations, joined by "," or ";", as "x = 2". Raises NoResult."""
    written = [one for one in re.split(r"[,;，；\n]|\band\b", equations) if one.strip()]
    if not 0 < len(written) <= MOST:
        raise NoResult(f"it is not one to {MOST} equations")
    polys = [_equation(one) for one in written]
    letters = sorted({letter for poly in polys for product in poly for letter in product})
    if not letters:
        raise NoResult("there is no unknown in it")
    if all(len(product) < QUADRATIC for poly in polys for product in poly):
        return _told(_linear(polys, letters))
    if len(polys) == 1 and len(letters) == 1:
        return _told([(letters[0], root) for root in _quadratic(polys[0], letters[0])])
    raise NoResult("only linear equations, and one quadratic equation, can be solved")


def _equation(text: str) -> Poly:
    left, equals, right = text.partition("=")
    if not equals or "=" in right:
        raise NoResult("write each equation as left = right")
    spelled = [re.sub(r"(?<=[\d)])\s*(?=[A-Za-z(])", "*", side) for side in (left, right)]
    sides = [_poly(parsed(side)) for side in spelled]
    return _sum(sides[0], sides[1], -1)


def _poly(node: ast.expr) -> Poly:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if not math.isfinite(number) or abs(number) > LARGEST:
                raise NoResult("a number is too large")
            return {(): Fraction(str(number))}
        case ast.Name(id=name):
            return {(name,): Fraction(1)}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _sum({}, _poly(inner), -1)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_poly(left), _poly(right), 1)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _sum(_poly(left), _poly(right), -1)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_poly(left), _poly(right))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            below = _poly(right)
            if set(below) != {()} or not below[()]:
                raise NoResult("it divides by an unknown or by nothing")
            return {key: value / below[()] for key, value in _poly(left).items()}
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=2)):
            side = _poly(left)  # once: squares within squares would double the work each time
            return _product(side, side)
    raise NoResult("it holds more than numbers, letters, + - * / and squares")


def _sum(a: Poly, b: Poly, sign: int) -> Poly:
    found = {key: a.get(key, Fraction(0)) + sign * b.get(key, Fraction(0)) for key in {**a, **b}}
    if any(max(abs(value.numerator), value.denominator) > LARGEST for value in found.values()):
        raise NoResult("a number is too large")
    return {key: value for key, value in found.items() if value}


def _product(a: Poly, b: Poly) -> Poly:
    found: Poly = {}
    for one, first in a.items():
        for other, second in b.items():
            key = tuple(sorted(one + other))
            if len(key) > QUADRATIC:
                raise NoResult("only equations up to squares can be solved")
            found = _sum(found, {key: first * second}, 1)
    return found


def _linear(polys: Iterable[Poly], letters: list[str]) -> list[tuple[str, Fraction | float]]:
    """Elimination with the unknowns in order."""
    rows = [[*(poly.get((x,), Fraction(0)) for x in letters), -poly.get((), Fraction(0))] for poly in polys]
    done: list[list[Fraction]] = []
    for at in range(len(letters)):
        pivot = next((row for row in rows if row[at]), None)
        if pivot is None:
            raise NoResult("there is no one solution")
        rows.remove(pivot)
        pivot = [value / pivot[at] for value in pivot]
        rows = [_without(row, pivot, at) for row in rows]
        done = [*(_without(row, pivot, at) for row in done), pivot]
    if any(row[-1] for row in rows):
        raise NoResult("the equations contradict each other")
    return [(letter, row[-1]) for letter, row in zip(letters, done, strict=True)]


def _without(row: list[Fraction], pivot: list[Fraction], at: int) -> list[Fraction]:
    return [value - row[at] * own for value, own in zip(row, pivot, strict=True)]


def _quadratic(poly: Poly, letter: str) -> list[Fraction | float]:
    a, b, c = (poly.get(key, Fraction(0)) for key in ((letter, letter), (letter,), ()))
    under = b * b - 4 * a * c
    if under < 0:
        raise NoResult("there is no real solution")
    top, bottom = math.isqrt(under.numerator), math.isqrt(under.denominator)
    exact = top * top == under.numerator and bottom * bottom == under.denominator
    root = Fraction(top, bottom) if exact else math.sqrt(under)
    if not exact:
        return [float(-b - root) / float(2 * a), float(-b + root) / float(2 * a)]
    return sorted({(-b - root) / (2 * a), (-b + root) / (2 * a)})


def _told(found: Iterable[tuple[str, Fraction | float]]) -> str:
    return ", ".join(f"{x} = {value if isinstance(value, Fraction) else f'{value:.10g}'}" for x, value in found)
