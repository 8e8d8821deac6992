"""A DeepSpeed configuration, resolved: ``auto`` values and missing keys filled in, contradictions refused.

``check_ds_config`` runs before any weight is loaded; ``resolve_ds_config`` needs the run's numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_dist.errors import closest
from clear_dist.reading import finite, json_value, unique_keys
from clear_dist.types import UserError

from .ds_shipped import FOLDER, nearest_shipped, shipped, shipped_name
from .ds_zeropp import HPZ, QUANTIZED, fill_zeropp
from .optimizer import BETAS, EPS

AUTO = Path("auto")  # --ds auto: the recipe asks the planner which shipped file fits

# Top-level keys of DeepSpeed 0.19's configuration that make sense for this engine (deepspeed.ai/docs/config-json).
KNOWN_KEYS = frozenset(
    """train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps optimizer scheduler
    communication_data_type prescale_gradients gradient_predivide_factor sparse_gradients fp16 bf16 amp
    gradient_clipping zero_optimization aio steps_per_print wall_clock_breakdown dump_state flops_profiler
    activation_checkpointing comms_logger data_types checkpoint zero_allow_untested_optimizer
    zero_force_ds_cpu_optimizer seq_parallel_communication_data_type load_universal_checkpoint""".split()
)
ZERO_KEYS = frozenset(
    """stage allgather_partitions allgather_bucket_size overlap_comm reduce_scatter reduce_bucket_size
    contiguous_gradients load_from_fp32_weights offload_param offload_optimizer sub_group_size cpu_offload
    stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_model_persistence_threshold
    stage3_max_live_parameters stage3_max_reuse_distance stage3_gather_16bit_weights_on_model_save
    stage3_use_all_reduce_for_fetch_params stage3_module_granularity_threshold use_all_reduce_for_fetch_params
    round_robin_gradients ignore_unused_parameters elastic_checkpoint zero_hpz_partition_size
    zero_quantized_weights zero_quantized_gradients zero_quantized_nontrainable_weights
    mics_shard_size mics_hierarchical_params_gather memory_efficient_linear pipeline_loading_checkpoint
    override_module_apply log_trace_cache_warnings leaf_module""".split()
)
# Entries that are objects; DeepSpeed itself would fail on anything else deep inside.
_OBJECTS = ("bf16", "fp16", "optimizer", "zero_optimization")
_OFFLOADS = ("offload_param", "offload_optimizer")
_STAGE3_ONLY = ("offload_param", HPZ, *QUANTIZED, "mics_shard_size")


@dataclass(frozen=True)
class RunNumbers:
    """What fills a configuration's gaps, and the machines it has to work on.

    ranks_per_node: None where all ranks are on one node.
    """

    world_size: int
    global_batch: int  # examples of the primary view per optimiser step
    accumulation: int
    bf16: bool
    lr: float
    weight_decay: float
    device: str = "cpu"
    ranks_per_node: int | None = None


def load_ds_config(path: Path | None) -> dict[str, Any]:
    """The JSON file, or ZeRO stage 0 where none was given; a shipped one is found by its name, without its folder."""
    if path is None:
        return {"gradient_clipping": 1.0, "zero_optimization": {"stage": 0}}
    if path == AUTO:
        raise UserError(
            "--ds auto is for finetune, unlearn, sweep and plan, which know what is trained; leave it out, or name a "
            "file."
        )
    if not path.is_file():
        if (name := shipped_name(path)) is not None:
            return shipped(name)
        close = nearest_shipped(path)
        raise UserError(
            f"--ds {path}: no such file{f' (did you mean {close}?)' if close else ''}. Shipped ones are in {FOLDER}/, "
            f"e.g. {FOLDER}/z3.json, and are found by name (--ds z3); --ds auto picks one."
        )
    try:
        text = path.read_text(encoding="utf-8")
        config = json_value(text, parse_constant=finite, parse_float=finite, object_pairs_hook=unique_keys)
    except OSError as error:
        raise UserError(f"--ds {path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"--ds {path}: not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise UserError(f"--ds {path}: expected an object of DeepSpeed keys, found {type(config).__name__}.")
    return config


def check_ds_config(config: dict[str, Any], source: str) -> int:
    """Refuse what contradicts itself; returns the ZeRO stage. Needs no model, no ranks.

    Raises:
        UserError: naming the file, the key and what to do.
    """
    _known(config, KNOWN_KEYS, source, "")
    for key in _OBJECTS:
        if not isinstance(config.get(key, {}), dict):
            raise UserError(f"{source}: {key} must be an object in braces, not {config[key]!r}.")
    zero = config.get("zero_optimization", {})
    _known(zero, ZERO_KEYS, source, "zero_optimization.")
    for key in _OFFLOADS:
        if not isinstance(zero.get(key) or {}, dict):
            raise UserError(f'{source}: zero_optimization.{key} must be an object, e.g. {{"device": "cpu"}}.')
    zero = {k: v for k, v in zero.items() if k not in _OFFLOADS or _offloads(v)}
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3) or not isinstance(stage, int) or isinstance(stage, bool):
        raise UserError(f"{source}: zero_optimization.stage is {stage!r}; expected 0, 1, 2 or 3.")
    if stage < 3:
        wrong = [k for k in (*_STAGE3_ONLY, *(k for k in zero if k.startswith("stage3_"))) if k in zero]
        if wrong:
            raise UserError(
                f"{source}: zero_optimization.{wrong[0]} needs stage 3, but stage is {stage}. Remove it or set stage 3."
            )
    clip = config.get("gradient_clipping", "auto")
    if clip != "auto" and (isinstance(clip, bool) or not isinstance(clip, (int, float)) or clip < 0):
        raise UserError(f"{source}: gradient_clipping is {clip!r}; expected a number, 0 for no clipping.")
    if stage == 0 and "offload_optimizer" in zero:
        raise UserError(f"{source}: zero_optimization.offload_optimizer needs stage 1, 2 or 3, but stage is 0.")
    if _enabled(config, "fp16") is True:
        other = " together with bf16" if _enabled(config, "bf16") is True else ""
        raise UserError(
            f"{source}: fp16.enabled{other} is not supported (losses of unlearning overflow it); use bf16 or fp32."
        )
    if "amp" in config:
        raise UserError(f"{source}: amp (apex) is not supported; use bf16.")
    if "scheduler" in config:
        raise UserError(f"{source}: scheduler contradicts --schedule and --warmup, which always apply; remove the key.")
    for key in _OFFLOADS:
        entry = zero.get(key, {})
        if entry.get("device") == "nvme" and not entry.get("nvme_path"):
            raise UserError(
                f"{source}: zero_optimization.{key}.device is nvme but nvme_path is missing; name a fast local folder."
            )
    return stage


def resolve_ds_config(config: dict[str, Any], numbers: RunNumbers, source: str) -> tuple[dict[str, Any], list[str]]:
    """(a full configuration for ``deepspeed.initialize``, lines that say what was filled in).

    The engine normalises by global counts itself (examples need not divide evenly), so DeepSpeed's three batch
    numbers only have to be consistent: micro = ceil(global / (ranks x accumulation)).
    """
    stage = check_ds_config(config, source)
    out = json.loads(json.dumps(config))
    filled: list[str] = []

    def fill(container: dict[str, Any], key: str, value: Any, prefix: str = "") -> None:
        if container.get(key, "auto") == "auto":
            container[key] = value
            filled.append(f"{prefix}{key} = {value}")

    micro = -(-numbers.global_batch // (numbers.world_size * numbers.accumulation))
    expected = {
        "gradient_accumulation_steps": (numbers.accumulation, "--micro-batch"),
        "train_micro_batch_size_per_gpu": (micro, "--global-batch and --micro-batch"),
        "train_batch_size": (micro * numbers.accumulation * numbers.world_size, "--global-batch"),
    }
    for key, (value, flag) in expected.items():
        given = out.get(key, "auto")
        if given not in ("auto", value):
            raise UserError(
                f"{source}: {key} is {given}, but {flag} on {numbers.world_size} rank(s) make it {value}. "
                'Set it to "auto" or change the flag.'
            )
        fill(out, key, value)

    bf16 = out.setdefault("bf16", {"enabled": "auto"})
    if _enabled(out, "bf16") not in ("auto", numbers.bf16):
        raise UserError(
            f"{source}: bf16.enabled is {_enabled(out, 'bf16')}, but --dtype resolves to "
            f"{'bf16' if numbers.bf16 else 'fp32'}. Set one to auto."
        )
    fill(bf16, "enabled", numbers.bf16, "bf16.")
    out.pop("fp16", None)

    zero = out.setdefault("zero_optimization", {"stage": stage})
    filled += fill_zeropp(
        zero,
        world_size=numbers.world_size,
        ranks_per_node=numbers.ranks_per_node or numbers.world_size,
        device=numbers.device,
        source=source,
    )
    for key in [k for k, v in zero.items() if v == "auto"]:
        # DeepSpeed's own defaults depend on nothing we know better.
        del zero[key]
        filled.append(f"zero_optimization.{key} = DeepSpeed's default")
    for key in _OFFLOADS:
        if key in zero and not _offloads(zero[key]):
            del zero[key]
    fill(out, "gradient_clipping", 1.0)

    optimizer = out.pop("optimizer", None)
    if optimizer is not None:
        _check_optimizer(optimizer, numbers, source)
    # The engine passes torch's AdamW: no just-in-time C++ build anywhere, offload included.
    out["zero_allow_untested_optimizer"] = True
    out["zero_force_ds_cpu_optimizer"] = False
    out.setdefault("steps_per_print", 10**9)
    return out, filled


def _check_optimizer(optimizer: dict[str, Any], numbers: RunNumbers, source: str) -> None:
    if optimizer.get("type", "AdamW") not in ("AdamW", "Adam", "auto"):
        raise UserError(
            f"{source}: optimizer {optimizer!r}: only AdamW is supported; remove the key or set type AdamW."
        )
    params = optimizer.get("params", {})
    if not isinstance(params, dict):
        raise UserError(f"{source}: optimizer.params must be an object in braces, not {params!r}.")
    for key, value, flag in (("lr", numbers.lr, "--lr"), ("weight_decay", numbers.weight_decay, "--weight-decay")):
        given = params.get(key, "auto")
        if given not in ("auto", value):
            raise UserError(
                f"{source}: optimizer.params.{key} is {given}, but {flag} is {value}. "
                f'Set it to "auto" or pass {flag} {given}.'
            )
    for key, fixed in (("betas", list(BETAS)), ("eps", EPS)):
        given = params.get(key, "auto")
        if given not in ("auto", fixed):
            raise UserError(f"{source}: optimizer.params.{key} is {given}, but is always {fixed}; remove the key.")


def _enabled(config: dict[str, Any], key: str) -> Any:
    """``config[key].enabled``: True, False, or auto where nothing says so; an absent fp16 or bf16 is off."""
    return config[key].get("enabled", "auto") if key in config else False


def _offloads(entry: Any) -> bool:
    return bool(entry) and entry.get("device", "cpu") not in (None, "none")


def _known(config: dict[str, Any], known: frozenset[str], source: str, prefix: str) -> None:
    for key in config:
        if key.startswith("_"):  # comments
            continue
        if key not in known:
            close = closest(key, known)
            hint = f"; did you mean {prefix}{close!r}?" if close else ". See ds_configs/README.md for the keys in use."
            raise UserError(f"{source}: unknown key {prefix}{key!r}{hint}")
