"""From the options of ``shadow-farm`` to a farm's settings: preset, methods, single numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from clear_dist.config import ShadowFarmConfig
from clear_dist.data.identities import Identities
from clear_dist.errors import UserError, nearest
from clear_dist.methods import METHODS, Setting, parse_objective
from clear_dist.models.files import resolve
from clear_dist.shadow.presets import PRESETS, VISION_METHODS, Preset, methods_of, unlearning_of
from clear_dist.shadow.settings import FarmSettings, Training, Unlearning

PRETRAIN_SHARE = 0.3  # of the identities, set aside unless told otherwise
_METHOD_FIELDS = tuple(f.name for f in fields(Unlearning) if f.name != "stages")
_METHOD = TypeAdapter(Unlearning)


def settings_of(config: ShadowFarmConfig, data: Identities, other: Identities | None) -> FarmSettings:
    """The configuration with its preset filled in.

    Args:
        data, other: the pictures attacked, and those of ``--pretrain``.

    Raises:
        UserError: an unknown method or setting, a value out of range.
    """
    preset = PRESETS[config.preset]
    methods = _unlearning(preset, _methods(config.methods), config.tune)
    set_aside = config.pretrain_identities
    if set_aside is None:
        set_aside = 0 if config.weights or other is not None else round(PRETRAIN_SHARE * len(data.names))
    pretraining = _given(preset.pretraining, config.pretrain_epochs, config.pretrain_lr, config.batch)
    shadow = _given(preset.shadow, config.epochs, config.lr, config.batch)
    network = replace(preset.network, stem=config.stem, head=config.head, size=config.network or preset.network.size)
    return FarmSettings(
        images=Path(config.images).name,
        digest=data.digest,
        size=config.size or preset.size,
        models=config.models or preset.models,
        forget=config.forget or preset.forget,
        holdout=config.holdout or preset.holdout,
        identities=config.identities,
        design=config.design or preset.design,
        pretrain=set_aside,
        pretrain_images=None if config.pretrain is None else Path(config.pretrain).name,
        pretrain_digest=None if other is None else other.digest,
        weights=None if config.weights is None else Path(config.weights).name,
        weights_digest=None if config.weights is None else weights_digest(config.weights),
        network=network,
        shadow=replace(shadow, augment=config.augment or shadow.augment),
        pretraining=replace(pretraining, augment=config.pretrain_augment or pretraining.augment),
        methods=methods,
        trace=_traced(config.trace, methods),
        enrolment=config.enrolment or preset.enrolment,
        enrol=config.enrol,
        precision=config.precision,
        keep=config.keep,
        seed=config.seed,
    )


def weights_digest(name: str) -> str:
    """SHA-256 over the safetensors of a network that tasks start from."""
    path = Path(name) if Path(name).is_file() else resolve(name)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _methods(names: str) -> tuple[str, ...]:
    """all, none, or the names given."""
    return VISION_METHODS if names == "all" else () if names == "none" else _split(names)


def _traced(names: str, methods: dict[str, Unlearning]) -> tuple[str, ...]:
    wanted = tuple(methods) if names == "all" else () if names == "none" else _split(names)
    for name in wanted:
        if name not in VISION_METHODS:
            raise UserError(f"--trace {name}: no such method{nearest(name, VISION_METHODS)}")
    return tuple(name for name in wanted if name in methods)


def _given(base: Training, epochs: float | None, lr: float | None, batch: int | None) -> Training:
    return replace(base, epochs=epochs or base.epochs, lr=lr or base.lr, batch=batch or base.batch)


def _unlearning(preset: Preset, names: tuple[str, ...], tune: Mapping[str, str]) -> dict[str, Unlearning]:
    """The methods, in the order they are named, with ``--tune``: METHOD.FIELD=VALUE, or METHOD.set.NAME=VALUE for a
    hyperparameter of the equation.

    Raises:
        UserError: names the piece that is wrong.
    """
    methods = methods_of(names, preset)
    given: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in tune.items():
        name, _, field = key.partition(".")
        if name not in given:
            raise UserError(f"--tune {key}: {name} is none of this farm's methods{nearest(name, given)}")
        if not field.startswith("set.") and field not in _METHOD_FIELDS:
            raise UserError(
                f"--tune {key}: no such setting{nearest(field, _METHOD_FIELDS)}; there are {', '.join(_METHOD_FIELDS)} "
                "and set.NAME for a hyperparameter of the equation"
            )
        given[name][field] = value
    return {name: _tuned(preset, name, given[name]) if given[name] else method for name, method in methods.items()}


def _tuned(preset: Preset, name: str, given: Mapping[str, str]) -> Unlearning:
    more: dict[str, Setting] = {k.removeprefix("set."): v for k, v in given.items() if k.startswith("set.")}
    fields_given = {k: v for k, v in given.items() if not k.startswith("set.")}
    if more and "objective" in fields_given:
        raise UserError(f"--tune {name}.objective and {name}.set.{next(iter(more))}: give the one or the other")
    try:
        method = unlearning_of(name, preset.methods[name], more=more)
        method = _METHOD.validate_python({**vars(method), **fields_given})
        parse_objective(method.objective)
    except KeyError as error:
        known = METHODS[name].settings()
        raise UserError(
            f"--tune {name}.set.{error.args[0]}: {name} has no such hyperparameter; it has {', '.join(known)}"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{first['loc'][0]}: " if first["loc"] else ""
        raise UserError(f"--tune {name}: {where}{first['msg'].removeprefix('Value error, ')}") from error
    except ValueError as error:
        raise UserError(f"--tune {name}: {error}") from error
    return method
