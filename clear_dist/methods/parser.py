"""``--objective "npo(FORGET, beta=0.5) + 2*kl(RETAIN)"``: a small safe parser, never eval.

The grammar is a subset of Python's expressions, read through ``ast`` and walked by hand: numbers, ``+ - *``, and calls
of the terms below with a view first and literal keyword arguments.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from clear_dist.errors import nearest
from clear_dist.types import UserError, View

from . import terms
from .objective import Objective, Until

TERMS: dict[str, Callable[..., Objective]] = {
    "nll": terms.nll,
    "entropy": terms.entropy,
    "kl": terms.kl,
    "npo": terms.npo,
    "l1": terms.l1,
}
_VIEWS = {v.name: v for v in (View.FORGET, View.RETAIN, View.IDK)}
_PARAMETERS = {"LORA": "lora", "ALL": "all"}
MAX_LENGTH = 2000  # characters; far beyond any real objective, far below a parser's recursion limit


def parse_objective(text: str) -> Objective:
    """The objective an equation writes down.

    Raises:
        UserError: with the offending piece and the nearest valid name.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(f"--objective: {len(text)} characters; at most {MAX_LENGTH} are read.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"--objective: cannot read {text!r}: {error}. Write e.g. 'nll(RETAIN) - nll(FORGET)'."
        ) from None
    try:
        value = _walk(tree.body)
    except RecursionError:
        raise UserError("--objective: nested too deeply; write a plain sum of terms.") from None
    if not isinstance(value, Objective):
        raise UserError(f"--objective: {text!r} is a number, not an objective; it needs a term such as nll(RETAIN).")
    if not value.terms:
        raise UserError(f"--objective: {text!r} has only penalties; it needs a term such as nll(RETAIN).")
    return value


def _walk(node: ast.expr) -> Objective | float | Until:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _walk(operand)
            if isinstance(inner, Until):
                raise UserError("--objective: a schedule cannot be negated; negate its term.")
            return -inner
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as op, right=right):
            return _binary(_walk(left), op, _walk(right), node)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords)
    raise UserError(f"--objective: {ast.unparse(node)!r} is not allowed; use numbers, + - *, and {', '.join(TERMS)}.")


def _binary(a: Objective | float | Until, op: ast.operator, b: Objective | float | Until, node: ast.expr):
    if isinstance(op, ast.Mult):
        if isinstance(a, Objective) and isinstance(b, (float, Until)):
            return a * b
        if isinstance(b, Objective) and isinstance(a, (float, Until)):
            return b * a
        if isinstance(a, float) and isinstance(b, float):
            return a * b
        raise UserError(f"--objective: {ast.unparse(node)!r}: a product needs a number and a term.")
    if isinstance(a, Objective) and isinstance(b, Objective):
        return a + b if isinstance(op, ast.Add) else a - b
    raise UserError(f"--objective: {ast.unparse(node)!r}: only terms add and subtract.")


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> Objective | Until:
    options: dict[str, Any] = {}
    for keyword in keywords:
        match keyword.value:
            case ast.Constant(value=value):
                pass
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                value = -number
            case _:
                value, keyword.arg = None, None
        if keyword.arg is None:
            raise UserError(f"--objective: {name}(...): options are written name=value with a literal value.")
        options[keyword.arg] = value
    if name == "until":
        if len(args) == 1 and isinstance(args[0], ast.Constant) and isinstance(args[0].value, (int, float)):
            return Until(float(args[0].value))
        raise UserError("--objective: until(FRACTION) takes one number between 0 and 1.")
    if name not in TERMS:
        raise UserError(
            f"--objective: unknown term {name!r}{nearest(name, TERMS, quoted=True)}; known: {', '.join(TERMS)}."
        )
    places = _PARAMETERS if name == "l1" else _VIEWS
    if len(args) != 1 or not isinstance(args[0], ast.Name):
        raise UserError(
            f"--objective: {name} takes one of {', '.join(places)} first, e.g. {name}({next(iter(places))})."
        )
    where = args[0].id
    if where not in places:
        raise UserError(
            f"--objective: {name}({where}): unknown{nearest(where, places, quoted=True)}; known: {', '.join(places)}."
        )
    _check_options(name, options)
    try:
        return TERMS[name](places[where], **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--objective: {name}({where}): {error}.") from None


_CHOICES: dict[str, tuple[str, ...]] = {"direction": ("forward", "reverse"), "reduction": ("example", "token")}


def _check_options(name: str, options: dict[str, object]) -> None:
    for key, value in options.items():
        choices = ("sum", "mean") if name == "l1" and key == "reduction" else _CHOICES.get(key)
        if choices is not None and value not in choices:
            raise UserError(f"--objective: {name}: {key}={value!r}; expected one of {', '.join(choices)}.")
        if key == "beta" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UserError(f"--objective: {name}: beta={value!r}; expected a number.")
