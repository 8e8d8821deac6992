"""ZeRO++ (arXiv 2306.10209): what it asks of the machines, so that a run is refused before it hangs or dies inside.

Three independent parts on top of ZeRO-3: weights quantised to 8 bits on their way (qwZ), a second copy of the weights
kept within each node so that backward gathers without the network (hpZ), gradients reduced in 4 bits in two hops (qgZ).
"""

from __future__ import annotations

from typing import Any

from clear_dist.types import UserError

HPZ = "zero_hpz_partition_size"
QUANTIZED = ("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights")
_INSTEAD = "Use ds_configs/z3.json, which is the same without ZeRO++."


def fill_zeropp(
    zero: dict[str, Any], *, world_size: int, ranks_per_node: int, device: str, source: str
) -> tuple[str, ...]:
    """Set ``zero_hpz_partition_size`` where it is ``auto`` (the ranks of a node); lines that say so.

    Args:
        zero: ``zero_optimization`` of a checked configuration; changed in place. ranks_per_node: of each node.
        device: ``cuda`` or ``cpu``.
    Raises:
        UserError: quantised communication without GPUs, a second copy or quantised gradients on one node, a partition
            that ranks do not fall into.
    """
    filled: tuple[str, ...] = ()
    if zero.get(HPZ) == "auto":
        zero[HPZ] = ranks_per_node
        filled = (f"zero_optimization.{HPZ} = {ranks_per_node}, the ranks of a node",)
    quantized = [key for key in QUANTIZED if zero.get(key)]
    if quantized and device != "cuda":
        raise UserError(
            f"{source}: zero_optimization.{quantized[0]} needs GPUs: DeepSpeed quantises in CUDA kernels, and this run "
            f"is on a {device.upper()}. {_INSTEAD}"
        )
    nodes = world_size // ranks_per_node
    hpz = zero.get(HPZ) or 1
    if isinstance(hpz, bool) or not isinstance(hpz, int) or hpz < 1:
        raise UserError(f'{source}: zero_optimization.{HPZ} is {hpz!r}; expected a number of ranks, or "auto".')
    needs_nodes = HPZ if hpz > 1 else "zero_quantized_gradients" if zero.get("zero_quantized_gradients") else None
    if needs_nodes and nodes < 2:
        raise UserError(
            f"{source}: zero_optimization.{needs_nodes} needs two nodes or more, and {world_size} rank(s) with "
            f"{ranks_per_node} a node are one: no communication leaves it. {_INSTEAD}"
        )
    if world_size % hpz or ranks_per_node % hpz:
        raise UserError(
            f"{source}: zero_optimization.{HPZ} is {hpz}, which does not divide {ranks_per_node} ranks a node and "
            f'{world_size} in all. Set it to "auto", or to a divisor of both.'
        )
    if zero.get("zero_quantized_gradients") and world_size % ranks_per_node:
        raise UserError(
            f"{source}: zero_optimization.zero_quantized_gradients needs as many ranks on every node, and {world_size} "
            f"ranks are no multiple of {ranks_per_node}. Use whole nodes. {_INSTEAD}"
        )
    return filled
