"""The shipped DeepSpeed configurations, for a package without its ``ds_configs/`` folder beside it.

``ds_configs/NAME.json`` is what a user reads and copies; here is the same in code, so that ``--ds z3``, ``--ds auto``
and ``--ds ds_configs/z3.json`` work from an installed package too. A test holds both to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clear_dist.errors import closest

FOLDER = "ds_configs"
# Elements of one communication: large enough to use the link, small beside a block of a 7B model (2e8).
BUCKET = 50_000_000
NVME_PATH = "/local_nvme"  # every machine has another: the copy of a user names it

_AIO = {"block_size": 1_048_576, "queue_depth": 8, "thread_count": 1, "single_submit": False, "overlap_events": True}


def _whole(zero: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "bf16": {"enabled": "auto"},
        "gradient_clipping": 1.0,
        "zero_optimization": zero,
        **more,
    }


def _z1() -> dict[str, Any]:
    return {"stage": 1, "overlap_comm": True, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}


def _z3(**more: Any) -> dict[str, Any]:
    return {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": 10_000,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "stage3_gather_16bit_weights_on_model_save": False,
        **more,
    }


def _z3_nvme() -> dict[str, Any]:
    disk = {"device": "nvme", "nvme_path": NVME_PATH, "pin_memory": True}
    return _z3(
        offload_param={**disk, "buffer_count": 5, "buffer_size": 100_000_000},
        offload_optimizer={**disk, "buffer_count": 4},
    )


# In the order of what they give up: the first that fits is the one to take.
_SHIPPED: dict[str, Callable[[], dict[str, Any]]] = {
    "z0": lambda: _whole({"stage": 0}),
    "z1": lambda: _whole(_z1()),
    "z2": lambda: _whole({**_z1(), "stage": 2, "contiguous_gradients": True}),
    "z3": lambda: _whole(_z3()),
    "zpp": lambda: _whole(
        _z3(zero_hpz_partition_size="auto", zero_quantized_weights=True, zero_quantized_gradients=True)
    ),
    "z3_offload": lambda: _whole(
        _z3(
            offload_param={"device": "cpu", "pin_memory": True}, offload_optimizer={"device": "cpu", "pin_memory": True}
        )
    ),
    "z3_nvme": lambda: _whole(_z3_nvme(), aio=dict(_AIO)),
}
SHIPPED = tuple(_SHIPPED)


def shipped(name: str) -> dict[str, Any]:
    """A fresh copy of ``ds_configs/NAME.json``. KeyError: no such file is shipped."""
    return _SHIPPED[name]()


def shipped_name(path: Path) -> str | None:
    """``z3`` of ``z3`` and of ``ds_configs/z3.json``; None where a file of the user's is meant, such as ``z3.json``."""
    name = path.stem
    return name if name in _SHIPPED and path in (Path(name), Path(FOLDER) / f"{name}.json") else None


def nearest_shipped(path: Path) -> str | None:
    """The shipped name most like a file that is not there."""
    return closest(path.stem, SHIPPED, 0.5)  # short names: be generous
