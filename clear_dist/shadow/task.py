"""What a farm does one of: a task, its key, what comes of it, and the function that does it.

A task's key is the SHA-256 of all that decides its result: kind, specification and its parents' keys, as canonical JSON
(keys sorted, no spaces, no NaN). Equal keys mean equal results, so a result is made once, whoever asks for it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from clear_dist.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

KEY = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9_.=+-]+(/[A-Za-z0-9_.=+-]+)*")
FACTORY = re.compile(r"(clear_dist|tests)(\.[A-Za-z_]\w*)+:[A-Za-z]\w*")


@dataclass(frozen=True)
class Task:
    """One thing to do.

    key: identity, 64 hex digits. kind: what the runner looks at first. name: for people, ``GROUP/NUMBER``; progress is
    counted by group (``shadow``, ``unlearn/scrub_bio``). spec: JSON object, all the runner reads. parents: keys of the
    tasks whose kept weights it starts from. keep_weights: its weights are kept, not only its result.
    """

    key: str
    kind: str
    name: str
    spec: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    keep_weights: bool = False


@dataclass
class Outcome:
    """What a runner hands back: the result, weights where the task keeps them, and a few numbers for people."""

    tensors: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    metrics: dict[str, float] = field(default_factory=dict)


Runner = Callable[[Task, Mapping[str, Mapping[str, "Tensor"]]], Outcome]  # the second: parent's key -> its weights


@dataclass(frozen=True)
class RunnerRef:
    """How each worker makes its runner: ``package.module:function``, called with ``arguments`` (JSON) by name."""

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def canonical(value: Any) -> str:
    """``value`` as JSON in its one form.

    Raises:
        UserError: holds what JSON cannot: NaN, infinities, objects, keys that are no strings.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot be written as JSON ({error}); use numbers, texts, lists and dictionaries") from None
    return text


def make_task(
    kind: str, name: str, spec: Mapping[str, Any], parents: Sequence[str] = (), keep_weights: bool = False
) -> Task:
    """A task with its key. Name and ``keep_weights`` are no part of its identity.

    Raises:
        UserError: ``spec`` cannot be written as JSON, a parent is no key, or the name holds more than letters, digits
            and ``_ . = + - /``.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"task {name!r}: a name is made of letters, digits and _ . = + - between slashes")
    if bad := [key for key in parents if not KEY.fullmatch(key)]:
        raise UserError(f"task {name}: parent {bad[0]!r} is no key; give the keys of tasks")
    if not all(isinstance(key, str) for key in spec):
        raise UserError(f"task {name}: the names in its specification must be texts")
    try:
        identity = canonical({"kind": kind, "spec": dict(spec), "parents": list(parents)})
    except UserError as error:
        raise UserError(f"task {name}: its specification {error}") from None
    key = hashlib.sha256(identity.encode()).hexdigest()
    return Task(key, kind, name, json.loads(identity)["spec"], tuple(parents), keep_weights)


def make_runner(ref: RunnerRef) -> Runner:
    """The runner that ``ref`` names. Only functions of this package (and of its tests) are called: a farm's file comes
    from a directory, and must not be able to name anything else.

    Raises:
        UserError: it names something else, or nothing.
    """
    if not FACTORY.fullmatch(ref.factory):
        raise UserError(f"runner {ref.factory!r}: expected clear_dist.MODULE:FUNCTION")
    module, _, name = ref.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise UserError(f"runner {ref.factory}: {error}") from None
    if not callable(factory) or getattr(factory, "__module__", None) != module:
        raise UserError(f"runner {ref.factory}: {module} defines no function {name}")
    return cast(Runner, factory(**ref.arguments))
