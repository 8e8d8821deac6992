"""The head and the loss: logits of a chunk of scored tokens, and the gradients ``ops.token_stats`` forms with them."""

from __future__ import annotations

from clear_dist.planner.job import Job

_CPU_BYTES, _GPU_BYTES = 32 << 20, 256 << 20  # of one matrix of logits, as ops.token_stats has them
_STATISTICS = 1.5  # of a scored token, on average: one, or one and a comparison


def head_trained(job: Job) -> bool:
    tensors = job.shape.part("embedding") if job.shape.tied else job.shape.part("head")
    return any(t.trainable for t in tensors)


def head_bytes(job: Job) -> int:
    """Bytes at the highest point. fp32 jobs are taken to run on a CPU, bf16 jobs on a GPU."""
    shape = job.shape
    if job.depth is not None:
        return 0
    compares = job.reference != "none"
    if job.impl == "logits":  # logits in e and fp32, log-probabilities and their gradient
        return job.scored * shape.vocab * (job.width + 3 * 4) * (2 if compares else 1)
    rows = min(chunk_rows(job), job.scored)
    logits = rows * shape.vocab * job.width * (3 if compares else 1)
    states = job.scored * shape.hidden * (job.width * (2 if compares else 1) + 4)
    if head_trained(job):
        return logits + states + shape.vocab * shape.hidden * 4
    return logits + states + int(_STATISTICS * job.scored * shape.hidden * job.width)


def chunk_rows(job: Job) -> int:
    """Scored tokens whose logits exist together."""
    size = job.shape.vocab * job.width
    if not job.bf16:
        return max(16, _CPU_BYTES // size)
    return min(4096, max(64, 1 << ((_GPU_BYTES // size).bit_length() - 1)))
