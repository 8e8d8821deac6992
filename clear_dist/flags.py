"""From the command line and a JSON or YAML file to a configuration, with errors that say what to type instead.

tyro reads the flags and prints the help page; pydantic checks every value, whichever way it came, so that one set of
ranges and one wording of errors serves flags, files and Python. Importing this module does not import torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import tyro
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from clear_dist.config import Config
from clear_dist.errors import UserError, nearest
from clear_dist.reading import is_file, json_value, unique_keys, yaml_value

C = TypeVar("C", bound=Config)
UNSET = "\0"  # no value on a command line can hold it
GROUPS = {
    "data": "Which people, and who of them is to be forgotten.",
    "pictures": "Where faces and pictures come from.",
    "model": "Which model, and what it is called.",
    "method": "How to forget: an equation over the forget and the retain set.",
    "training": "How long, how fast, and which weights. --preset supplies what is not given.",
    "evaluation": "What is asked of which models.",
    "layout": "How the work is laid out on the machine: precision, packing, memory, DeepSpeed.",
    "run": "Seed, where results go, and how a run is watched and resumed.",
    "check": "What is checked instead of made.",
    "output": "What is printed.",
}


def is_main_process() -> bool:
    """True on rank 0 and outside launchers: the one process that talks to the user."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def strip_local_rank(args: Sequence[str]) -> list[str]:
    """Arguments without the ``--local_rank N`` that launchers add (the rank itself is in the environment)."""
    kept: list[str] = []
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif arg in ("--local_rank", "--local-rank"):
            skip = True
        elif not arg.startswith(("--local_rank=", "--local-rank=")):
            kept.append(arg)
    return kept


def _inner(annotation: Any) -> Any:
    """X of ``X | None``; other types as they are."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _positional(field: FieldInfo) -> bool:
    return "positional" in field.metadata


def _metavar(field: FieldInfo) -> str:
    extra = cast("dict[str, Any]", field.json_schema_extra or {})
    inner = _inner(field.annotation)
    if typing.get_origin(inner) is Literal:
        return "|".join(typing.get_args(inner))
    return extra.get("metavar", "VALUE")


def expectation(field: FieldInfo) -> str:
    """What a field takes, in words: ``a number > 0``, ``one of auto, fp32, bf16``."""
    inner = _inner(field.annotation)
    if typing.get_origin(inner) is Literal:
        return f"one of {', '.join(typing.get_args(inner))}"
    if typing.get_origin(inner) is dict:
        return "KEY=VALUE with a number or a word as value"
    if typing.get_origin(inner) is tuple:
        return "a list of whole numbers, e.g. 5,6,7" if typing.get_args(inner)[0] is int else "a list of names"
    words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(inner, "text")
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{sign} {getattr(m, k):g}" for m in field.metadata for k, sign in signs.items() if hasattr(m, k)]
    pattern = next((m.pattern for m in field.metadata if getattr(m, "pattern", None)), None)
    if pattern:
        return f"{_metavar(field)}: {field.description}"
    return " ".join([words, " and ".join(limits)]).strip()


def read_file(path: Path, config: type[Config]) -> dict[str, Any]:
    """Values of a JSON or YAML file, its keys checked against the fields of ``config``.

    Raises:
        UserError: no such file, not JSON or YAML, not a mapping, or a key that is no field.
    """
    if not is_file(path):
        raise UserError(f"--config {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        values = json_value(text, object_pairs_hook=unique_keys) if path.suffix == ".json" else yaml_value(text)
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UserError(f"--config {path}: not valid {kind}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected a mapping of field names to values, got a {type(values).__name__}")
    for key in values:
        if key not in config.model_fields:
            hint = nearest(str(key), config.model_fields)
            raise UserError(f"{path}: {key} is no field of {config.recipe}{hint}")
    return values


def _set_items(items: Sequence[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not (key.isidentifier() and sign and value):
            raise UserError(f"--set {item}: expected KEY=VALUE, e.g. --set beta=0.5")
        out[key] = value
    return out


def _message(error: ErrorDetails, config: type[Config], flags: Mapping[str, Any], file: Path | None) -> str:
    """One pydantic error in the words of whoever wrote the value: a flag, a file's key or a Python keyword."""
    if not error["loc"]:
        text = str(error["msg"]).removeprefix("Value error, ")
        text = re.sub(r"`(\w+)`", lambda m: m[1] if file else _flag(m[1]), text)
        return f"{file}: {text}" if file else text
    name = str(error["loc"][0])
    dotted = ".".join(str(part) for part in error["loc"])
    where = f"{file}: {dotted}" if file is not None and name not in flags else _flag(name)
    field = config.model_fields.get(name)
    if field is None:
        return f"{where}: unknown field{nearest(name, config.model_fields)}"
    if error["type"] == "missing":
        return f"{_metavar(field) if _positional(field) else where} is required: {field.description}"
    if len(error["loc"]) > 1 and where.startswith("--"):
        where = f"{where} {'.'.join(str(part) for part in error['loc'][1:])}"
    shown = error["input"]
    hint = ""
    if typing.get_origin(_inner(field.annotation)) is Literal:
        hint = nearest(str(shown), typing.get_args(_inner(field.annotation)))
    return f"{where}: expected {expectation(field)}, got {str(shown)!r}{hint}"


def build(config: type[C], values: Mapping[str, Any], flags: Mapping[str, Any], file: Path | None = None) -> C:
    """Validate; every problem at once.

    Raises:
        UserError: names each field, its value and what was expected.
    """
    try:
        return config.model_validate(dict(values))
    except ValidationError as error:
        lines = [_message(e, config, flags, file) for e in error.errors()]
        raise UserError("\n       ".join(lines)) from None


def _shown_default(value: Any) -> str:
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, Mapping):
        return f"(default: {' '.join(f'{k}={v:g}' for k, v in value.items())})"
    if isinstance(value, bool):
        return f"(default: {'on' if value else 'off'})"
    return f"(default: {f'{value:g}' if isinstance(value, float) else str(value)})"


def _parser_type(config: type[Config], defaults: Config | None) -> type:
    """A dataclass of groups of string-valued flags: what tyro needs for one help page of ``config``."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    for name, field in config.model_fields.items():
        extra = cast("dict[str, Any]", field.json_schema_extra or {})
        required = field.is_required()
        hint = "(required)" if required else _shown_default(getattr(defaults, name) if defaults else field.default)
        shape = _inner(field.annotation)
        common = {"help": field.description, "help_behavior_hint": hint or ""}
        leaf: Any
        default: Any = UNSET
        if shape is bool:
            leaf, default = Annotated[bool, tyro.conf.arg(**common)], False
        elif typing.get_origin(shape) is dict:
            common["help_behavior_hint"] = " ".join(filter(None, ["(repeatable)", hint]))
            leaf = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE", **common)]
            default = ()
        elif _positional(field) and typing.get_origin(shape) is tuple:  # RUN [RUN ...]
            leaf = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar=_metavar(field), **common)]
            default = ()
        elif _positional(field):
            leaf = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=_metavar(field), **common)]
        else:
            leaf = Annotated[str, tyro.conf.arg(metavar=_metavar(field), **common)]
        groups.setdefault(extra["group"], []).append((name, leaf, dataclasses.field(default=default)))
    about = "JSON or YAML file whose keys are these options' names (a_b for --a-b); flags override it"
    source = Annotated[str, tyro.conf.arg(metavar="FILE", help=about, help_behavior_hint="")]
    groups.setdefault("run", []).append(("config", source, dataclasses.field(default=UNSET)))
    fields = []
    for group in (g for g in GROUPS if g in groups):
        kind = dataclasses.make_dataclass(group, groups[group], frozen=True)
        fields.append((group, Annotated[kind, tyro.conf.arg(help=GROUPS[group])], dataclasses.field(default=kind())))
    return dataclasses.make_dataclass(config.__name__, fields, frozen=True)


def _given_bools(args: Sequence[str]) -> set[str]:
    """Field names of the on/off flags that were typed."""
    names = {arg.split("=")[0].lstrip("-").replace("-", "_") for arg in args if arg.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def _join_values(config: type[Config], args: Sequence[str]) -> list[str]:
    """``--flag VALUE`` as ``--flag=VALUE``: a value may start with a minus sign (``--objective "-nll(FORGET)"``).

    Raises:
        UserError: a flag at the end, or before another flag, that lacks its value; an on/off flag that has one.
    """
    switches = {
        _flag(f"{no}{n}") for n, f in config.model_fields.items() if _inner(f.annotation) is bool for no in ("", "no_")
    }
    takes = {_flag(n): f for n, f in config.model_fields.items() if _inner(f.annotation) is not bool}
    known = {*takes, *map(_flag, config.model_fields), "--config", "--help"}
    out: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name = arg.replace("_", "-")
        switch, equals, value = arg.partition("=")
        if equals and switch.replace("_", "-") in switches:
            raise UserError(f"{switch} takes no value, got {value!r}")
        if arg.startswith("--") and (name in takes or name == "--config"):
            if not rest or rest[0].split("=")[0].replace("_", "-") in known:
                wanted = expectation(takes[name]) if name in takes else "a file"
                raise UserError(f"{name}: expected {wanted}, got nothing")
            arg = f"{name}={rest.pop(0)}"
        out.append(arg)
    return out


def _switch_before(value: str, args: Sequence[str], options: Sequence[str]) -> str:
    """What to say of a value behind an on/off flag, e.g. of ``--gold DIR``: nothing where it stands elsewhere."""
    before = args[args.index(value) - 1] if value in args[1:] else ""
    if before not in options:
        return ""
    longer = next((o for o in options if o.startswith(f"{before}-")), None)
    return f": {before} takes no value" + (f" (did you mean {longer} {value}?)" if longer else "")


def parse(config: type[C], args: Sequence[str], prog: str, examples: str = "") -> C:
    """``args`` (and the file of ``--config``) as a checked configuration; prints help and exits for ``--help``.

    Raises:
        UserError: an unknown option or key, a missing or wrong value, a contradiction.
        SystemExit: after ``--help``.
    """
    args = _join_values(config, strip_local_rank(args))
    try:
        defaults = config()
    except ValidationError:
        defaults = None  # some field is required
    about = " ".join((config.__doc__ or "").split())
    try:
        parsed, unknown = tyro.cli(
            _parser_type(config, defaults),
            prog=prog,
            description=about,
            args=args,
            return_unknown_args=True,
            console_outputs=is_main_process(),
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit as stop:
        if not stop.code and examples and is_main_process():
            print(f"\n{examples}")
        raise
    if unknown:
        options = [_flag(name) for name in (*config.model_fields, "config")]
        bad = next((u for u in unknown if u.startswith("-")), unknown[0]).split("=")[0]
        if not bad.startswith("-"):
            raise UserError(f"unexpected argument {bad}{_switch_before(bad, args, options)}; see `{prog} --help`")
        hint = nearest(bad.replace("_", "-"), options)
        raise UserError(f"unknown option {bad}{hint}; `{prog} --help` lists them all")

    typed = _given_bools(args)
    flags: dict[str, Any] = {}
    for group in dataclasses.fields(parsed):
        for item in dataclasses.fields(getattr(parsed, group.name)):
            value = getattr(getattr(parsed, group.name), item.name)
            if value not in (UNSET, ()) and not (isinstance(value, bool) and item.name not in typed):
                flags[item.name] = value
    file = Path(flags.pop("config")) if "config" in flags else None
    values = read_file(file, config) if file is not None else {}
    if "set" in flags:
        flags["set"] = _set_items(flags["set"])
        if isinstance(values.get("set"), dict):
            flags["set"] = {**values["set"], **flags["set"]}
    return build(config, {**values, **flags}, flags, file)
