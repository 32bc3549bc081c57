"""A batch that does not fit into memory is run in halves, down to single windows. Pure but for the runner it calls."""

from __future__ import annotations

import logging

import numpy as np

from service.inference.runner import Int16Array, Int64Array, ModelOutput, Runner

logger = logging.getLogger(__name__)

# What onnxruntime and the libraries under it say; they have no type of their own for it. Source: onnxruntime's bfc_arena.cc
# ("Failed to allocate memory for requested buffer of size", "Available memory of ... is smaller than requested bytes of"),
# cuda_call.cc (the name of the error), and what C++ says where new fails.
_SIGNS = (
    "failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a run failed for want of memory, the machine's or the GPU's."""
    return isinstance(error, MemoryError) or tells_of_memory(str(error))


def tells_of_memory(text: str, more_signs: tuple[str, ...] = ()) -> bool:
    """Return whether an error's text is about memory that does not suffice.

    Args:
        text: What was said, in any case.
        more_signs: What says so besides, in lower case.
    """
    lower = text.lower()
    return any(sign in lower for sign in _SIGNS + more_signs)


def run_in_halves(runner: Runner, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
    """Score a batch as `Runner.run` does; where memory does not suffice, its halves one after the other.

    Memory may be short because of a neighbour on the same GPU, so that the next batch is tried whole again.

    Args:
        runner: The model.
        waveform: int16 `[batch, window_samples]`.
        lengths: int64 `[batch]`.
        embedding: Whether to compute the embedding output.

    Raises:
        Exception: Whatever the runner raises, where it is no want of memory or a single window fails.
    """
    try:
        return runner.run(waveform, lengths, embedding=embedding)
    except Exception as error:
        if len(lengths) < 2 or not is_out_of_memory(error):
            raise
        logger.warning("model %s has no memory for a batch of %d, it is run in halves", runner.spec.name, len(lengths))
    middle = (len(lengths) + 1) // 2
    parts = [
        run_in_halves(runner, waveform[part], lengths[part], embedding=embedding)
        for part in (slice(None, middle), slice(middle, None))
    ]
    first, second = parts
    both = first.embedding is not None and second.embedding is not None
    return ModelOutput(
        np.concatenate([first.logits[:middle], second.logits]),
        np.concatenate([first.scores[:middle], second.scores]),
        np.concatenate([first.embedding[:middle], second.embedding]) if both else None,  # type: ignore[index]
    )
