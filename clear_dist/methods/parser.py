"""``--objective "npo(FORGET, beta=0.5) + 2*kl(RETAIN)"``: a small safe parser, never eval.

The grammar is a subset of Python's expressions, read through ``ast`` and walked by hand: numbers, ``+ - *``, calls of
the terms below with their views first and literal options, schedules as factors (``until(0.7)*nll(FORGET)``) and,
around the whole, an update rule (``orthogonal(nll(RETAIN) - nll(FORGET), until=0.8)``). Whatever an objective prints
can be read back.
"""

from __future__ import annotations

import ast
import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from clear_dist.errors import ConfigError, nearest
from clear_dist.types import View

from . import hidden, preference, terms
from .objective import Objective
from .rules import Conflict, Orthogonal, UpdateRule
from .schedules import After, Alternate, Schedule, Until

TERMS: dict[str, Callable[..., Objective]] = {
    "nll": terms.nll,
    "bounded_nll": terms.bounded_nll,
    "entropy": terms.entropy,
    "kl": terms.kl,
    "npo": preference.npo,
    "dpo": preference.dpo,
    "simnpo": preference.simnpo,
    "undial": terms.undial,
    "wga": terms.wga,
    "satimp": terms.satimp,
    "ce_u": terms.ce_u,
    "misdirect": hidden.misdirect,
    "match": hidden.match,
    "l2": hidden.l2,
    "cosine": hidden.cosine,
    "similarity": hidden.similarity,
    "vocabulary_npo": terms.vocabulary_npo,
    "l1": terms.l1,
}
SCHEDULES: dict[str, Callable[..., Schedule]] = {"until": Until, "after": After, "alternate": Alternate}
RULES: dict[str, Callable[..., UpdateRule]] = {"orthogonal": Orthogonal, "pcgrad": Conflict}
_VIEWS = {v.name: v for v in View}
_PARAMETERS = {"LORA": "lora", "ALL": "all"}
_CHOICES: dict[str, tuple[str, ...]] = {
    "direction": get_args(terms.Direction),
    "reduction": get_args(terms.Reduction),
    "tokens": get_args(terms.Tokens),
    "control": get_args(hidden.Control),
}
MAX_LENGTH = 2000  # characters; far beyond any real objective, far below a parser's recursion limit


@dataclass(frozen=True)
class _Factor:
    """number x schedule: what stands before a term."""

    schedule: Schedule
    number: float = 1.0


Value = Objective | float | _Factor


def parse_objective(text: str) -> Objective:
    """The objective an equation writes down.

    Raises:
        ConfigError: with the offending piece and the nearest valid name.
    """
    if len(text) > MAX_LENGTH:
        raise _error(f"{len(text)} characters; at most {MAX_LENGTH} are read.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on how to write Python
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise _error(f"cannot read {text!r}: {why}. Write e.g. 'nll(RETAIN) - nll(FORGET)'.") from None
    try:
        value = _walk(tree.body)
    except RecursionError:
        raise _error("nested too deeply; write a plain sum of terms.") from None
    if not isinstance(value, Objective):
        kind = "a number" if isinstance(value, float) else "a schedule"
        raise _error(f"{text!r} is {kind}, not an objective; it needs a term such as nll(RETAIN).")
    if not value.terms:
        raise _error(f"{text!r} has only penalties; it needs a term such as nll(RETAIN).")
    return value


def _error(message: str) -> ConfigError:
    return ConfigError(f"--objective: {message}")


def _walk(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _finite(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _walk(operand)
            return _Factor(inner.schedule, -inner.number) if isinstance(inner, _Factor) else -inner
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as op, right=right):
            return _binary(_walk(left), op, _walk(right), node)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords)
    raise _error(f"{ast.unparse(node)!r} is not allowed; use numbers, + - *, and {', '.join(TERMS)}.")


def _binary(a: Value, op: ast.operator, b: Value, node: ast.expr) -> Value:
    try:
        if isinstance(op, ast.Mult):
            factor, other = (b, a) if isinstance(a, Objective) else (a, b)
            match factor, other:
                case float(number), Objective() as term:
                    return term * number
                case _Factor(schedule, number), Objective() as term:
                    return term * schedule * number
                case (_Factor(schedule, x), float(y)) | (float(y), _Factor(schedule, x)):
                    return _Factor(schedule, _finite(x * y))
                case float(x), float(y):
                    return _finite(x * y)
            raise _error(f"{ast.unparse(node)!r}: a product needs a number and a term.")
        if isinstance(a, Objective) and isinstance(b, Objective):
            return a + b if isinstance(op, ast.Add) else a - b
    except ConfigError:
        raise
    except ValueError as error:
        raise _error(f"{ast.unparse(node)!r}: {error}.") from None
    raise _error(f"{ast.unparse(node)!r}: only terms add and subtract.")


def _finite(number: float) -> float:
    try:
        if math.isfinite(wide := float(number)):
            return wide
    except OverflowError:  # a whole number beyond all floats
        pass
    raise _error("a number is too large; write a finite one.")


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> Objective | _Factor:
    options = _options(name, keywords)
    try:
        if name in SCHEDULES:
            return _Factor(_schedule(name, args, options))
        if name in RULES:
            return _ruled(name, args, options)
        if name in TERMS:
            places = [_place(name, a) for a in args]
            _check_options(name, options, _arity(name, len(places)))
            return TERMS[name](*places, **options)
    except ConfigError:
        raise
    except ValueError as error:
        said = str(error)
        raise _error(f"{said if said.startswith(name) else f'{name}: {said}'}.") from None
    known = (*TERMS, *SCHEDULES, *RULES)
    raise _error(f"unknown term {name!r}{nearest(name, known, quoted=True)}; known: {', '.join(known)}.")


def _options(name: str, keywords: list[ast.keyword]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for keyword in keywords:
        if keyword.arg in options:
            raise _error(f"{name}: {keyword.arg} is given twice.")
        match keyword.value:
            case ast.Constant(value=value) if keyword.arg is not None:
                options[keyword.arg] = value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if keyword.arg:
                options[keyword.arg] = -number
            case ast.Name(id=word) if keyword.arg is not None:  # direction=forward, as objectives print it
                options[keyword.arg] = word
            case _:
                raise _error(f"{name}(...): options are written name=value with a literal value.")
    return options


def _schedule(name: str, args: list[ast.expr], options: dict[str, Any]) -> Schedule:
    kinds, most, what = (int, float), 1, "FRACTION) takes one number in 0..1"
    if name == "alternate":
        kinds, most, what = (int,), 2, "ROUNDS, TURN) takes two whole numbers"
    numbers = [a.value for a in args if isinstance(a, ast.Constant) and type(a.value) in kinds]
    if len(numbers) != len(args) or not 1 <= len(numbers) <= most or options:
        raise _error(f"{name}({what}.")
    return SCHEDULES[name](*numbers)


def _ruled(name: str, args: list[ast.expr], options: dict[str, Any]) -> Objective:
    inner = [_walk(a) for a in args]
    if len(inner) != 1 or not isinstance(inner[0], Objective):
        raise _error(f"{name}(OBJECTIVE) takes one objective, e.g. {name}(nll(RETAIN) - nll(FORGET)).")
    _known(name, options, inspect.signature(RULES[name]).parameters)
    for key, value in options.items():
        _number(name, key, value)
    return inner[0].ruled(RULES[name](**options))


def _place(name: str, node: ast.expr) -> Any:
    places: dict[str, Any] = _PARAMETERS if name == "l1" else dict(_VIEWS)
    if not isinstance(node, ast.Name):
        raise _error(f"{name} takes one of {', '.join(places)} first, e.g. {name}({next(iter(places))}).")
    if node.id not in places:
        hint = nearest(node.id, places, quoted=True)
        raise _error(f"{name}({node.id}): unknown{hint}; known: {', '.join(places)}.")
    return places[node.id]


def _arity(name: str, given: int) -> list[str]:
    """The option names of a term; refuses a wrong number of views."""
    parameters = inspect.signature(TERMS[name]).parameters
    views = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if given != len(views):
        places = "LORA, ALL" if name == "l1" else ", ".join(_VIEWS)
        raise _error(f"{name} takes one of {places} first{', twice' * (len(views) - 1)}; {given} given.")
    return [p for p in parameters if p not in views]


def _known(name: str, options: dict[str, Any], known: Iterable[str]) -> None:
    names = list(known)
    for key in options:
        if key not in names:
            hint = nearest(key, names, quoted=True)
            raise _error(f"{name}: no option {key!r}{hint}; it has: {', '.join(names) or 'none'}.")


def choices(name: str, key: str) -> tuple[str, ...]:
    """The words an option of a term takes; none where it takes a number, True or False."""
    return ("sum", "mean") if name == "l1" and key == "reduction" else _CHOICES.get(key, ())


def _check_options(name: str, options: dict[str, Any], known: list[str]) -> None:
    """Kinds as in the signature's defaults; words out of the known ones."""
    _known(name, options, known)
    for key, value in options.items():
        default = inspect.signature(TERMS[name]).parameters[key].default
        if words := choices(name, key):
            if value not in words:
                raise _error(f"{name}: {key}={value!r}; expected one of {', '.join(words)}.")
        elif isinstance(default, bool):
            options[key] = {"True": True, "False": False}.get(str(value), value)
            if not isinstance(options[key], bool):
                raise _error(f"{name}: {key}={value!r}; expected True or False.")
        else:
            _number(name, key, value)


def _number(name: str, key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _error(f"{name}: {key}={value!r}; expected a number.")
    _finite(value)
