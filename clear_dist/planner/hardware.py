"""GPUs as the planner sees them: memory, arithmetic and links, from the makers' data sheets.

Dense rates without structured sparsity. Memory is what a process can use: the size on the label in GiB less what ECC
and the driver keep, as ``torch.cuda.get_device_properties`` reports it (rounded down to 0.1 GiB).
"""

from __future__ import annotations

from dataclasses import dataclass

from clear_dist.errors import UserError, nearest

_GIB, _G, _T = 1 << 30, 1e9, 1e12
_GEN4, _GEN5 = 25 * _G, 50 * _G  # PCIe x16 as copies of pinned memory see it
_ETHERNET, _NDR, _HDR = 1.25 * _G, 50 * _G, 25 * _G  # 10 Gbit/s; 400 and 200 Gbit/s InfiniBand per GPU


@dataclass(frozen=True)
class Gpu:
    """memory: bytes. flops_bf16: dense FLOP/s. bandwidth: of its memory, B/s. link: to other GPUs of the node, per
    direction, B/s. network: per GPU between nodes, B/s. host_link: to the host's memory, per direction, B/s."""

    name: str
    memory: int
    flops_bf16: float
    bandwidth: float
    link: float
    network: float
    host_link: float


def _gpu(name: str, gib: float, tflops: float, tb_s: float, link: float, network: float, host: float) -> Gpu:
    return Gpu(name, int(gib * _GIB), tflops * _T, tb_s * _T, link, network, host)


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("h100-80g", 79.1, 989.4, 3.35, 450 * _G, _NDR, _GEN5),
        _gpu("h200-141g", 139.8, 989.4, 4.8, 450 * _G, _NDR, _GEN5),
        _gpu("h100-pcie-80g", 79.1, 756.5, 2.0, _GEN5, _NDR, _GEN5),
        _gpu("b200-180g", 178.3, 2250, 7.7, 900 * _G, _NDR, _GEN5),
        _gpu("a100-40g", 39.4, 311.9, 1.555, 300 * _G, _HDR, _GEN4),
        _gpu("a100-80g", 79.2, 311.9, 2.039, 300 * _G, _HDR, _GEN4),
        _gpu("l40s-48g", 44.4, 362.1, 0.864, _GEN4, _HDR, _GEN4),
        _gpu("a6000-48g", 47.5, 154.8, 0.768, _GEN4, _ETHERNET, _GEN4),
        _gpu("rtx3090-24g", 23.6, 71.2, 0.936, _GEN4, _ETHERNET, _GEN4),
        _gpu("rtx4090-24g", 23.5, 165.2, 1.008, _GEN4, _ETHERNET, _GEN4),
        _gpu("rtx5090-32g", 31.3, 209.5, 1.792, _GEN5, _ETHERNET, _GEN5),
        _gpu("v100-32g", 31.7, 125, 0.9, 150 * _G, 12.5 * _G, 12 * _G),
        _gpu("mi250x-64g", 63.9, 191.5, 1.638, 100 * _G, _HDR, _GEN4),
        _gpu("mi300x-192g", 191.9, 1307.4, 5.3, 448 * _G, _NDR, _GEN5),
        # Two cores of a laptop: fp32 rates, since nothing here runs bf16 on a CPU; memory is the machine's.
        _gpu("cpu", 16, 0.1, 0.02, 5 * _G, _ETHERNET, 10 * _G),
    )
}


def gpu_of(name: str) -> Gpu:
    """A GPU by its name. Raises UserError with near matches."""
    key = name.strip().lower().replace("_", "-")
    if key in GPUS:
        return GPUS[key]
    raise UserError(f"--gpu {name}: is not known{nearest(key, GPUS)}; known ones: {', '.join(GPUS)}")
