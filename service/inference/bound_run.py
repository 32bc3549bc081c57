"""A session with buffers of its own: for each shape of a batch inputs and outputs lie on the device and are bound once.

A plain `session.run` copies each input into new device memory and each output into new memory of the host. Here a batch is
copied over what the one before it left, so that nothing is allocated on the device once every shape has run, and the addresses
stay the same, which is what a CUDA graph needs to be replayed.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import onnxruntime

from service.inference.runner import FloatArray, Int16Array, Int64Array, ModelOutput, ModelSpec

OUTPUTS: Final = ("logits", "scores")
EMBEDDING: Final = "embedding"
GRAPH_ID: Final = "gpu_graph_id"
"""The option of a run that names its CUDA graph. Source: onnxruntime_run_options_config_keys.h."""
NO_GRAPH: Final = -1
"""The graph of a run that is neither captured nor replayed."""

Device = Literal["cpu", "cuda"]


def make_run_options(graph_id: int) -> onnxruntime.RunOptions:
    """Return the options of runs that belong to a CUDA graph, or to none; any session takes them."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GRAPH_ID, str(graph_id))
    return options


class BoundBatch:
    """One shape of a session's batches, with its buffers.

    Args:
        session: Runs it; one thread at a time.
        spec: The model.
        shape: Windows in a batch, and the samples of each.
        device: Where the buffers lie.
        graph_id: Which CUDA graph it is, or `NO_GRAPH`.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, spec: ModelSpec, shape: tuple[int, int], device: Device, graph_id: int
    ) -> None:
        self._session = session
        self._options = make_run_options(graph_id)
        self._binding = session.io_binding()
        self._values: dict[str, onnxruntime.OrtValue] = {}
        num_rows, num_samples = shape
        num_labels = len(spec.labels)
        for name, columns, kind in (
            ("waveform", (num_samples,), np.int16),
            ("lengths", (), np.int64),
            ("logits", (num_labels,), np.float32),
            ("scores", (num_labels,), np.float32),
            (EMBEDDING, (spec.embedding_size,), np.float32),
        ):
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([num_rows, *columns], kind, device, 0)
            self._values[name] = value
            is_input = name in {"waveform", "lengths"}
            (self._binding.bind_ortvalue_input if is_input else self._binding.bind_ortvalue_output)(name, value)

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        """Score a batch of exactly this shape; only the outputs that are wanted come back from the device."""
        self._values["waveform"].update_inplace(waveform)
        self._values["lengths"].update_inplace(lengths)
        self._session.run_with_iobinding(self._binding, self._options)
        return ModelOutput(self._fetch("logits"), self._fetch("scores"), self._fetch(EMBEDDING) if embedding else None)

    def _fetch(self, name: str) -> FloatArray:
        # From a device `numpy` copies, in host memory it is the buffer itself; what is returned belongs to the caller.
        return np.array(self._values[name].numpy(), np.float32, copy=True)


class BoundSession:
    """A session with a `BoundBatch` for each shape that the model's batches can have.

    Args:
        session: Runs it; one thread at a time.
        spec: The model.
        device: Where the buffers lie.
        max_graph_rows: The largest batch size that has a CUDA graph; 0 for none.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, spec: ModelSpec, device: Device, *, max_graph_rows: int = 0
    ) -> None:
        self.spec = spec
        shapes = [(rows, length) for length in spec.lengths_samples for rows in spec.batch_sizes]
        self._batches = {
            shape: BoundBatch(session, spec, shape, device, number if shape[0] <= max_graph_rows else NO_GRAPH)
            for number, shape in enumerate(shapes, start=1)
        }

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        """Score a batch; see `Runner.run`. One of another size than the model's is padded to the next of them.

        Raises:
            ValueError: It is larger than all of them.
        """
        count, num_samples = waveform.shape
        rows = next((size for size in self.spec.batch_sizes if size >= count), None)
        if rows is None:
            raise ValueError(f"a batch of {count} windows, model {self.spec.name} takes {self.spec.batch_sizes[-1]} at most")
        if rows > count:
            waveform = np.concatenate([waveform, np.zeros((rows - count, num_samples), np.int16)])
            lengths = np.concatenate([lengths, np.full(rows - count, self.spec.min_samples, np.int64)])
        output = self._batches[rows, num_samples].run(waveform, lengths, embedding=embedding)
        return output if rows == count else _cut(output, count)


def _cut(output: ModelOutput, count: int) -> ModelOutput:
    embedding = None if output.embedding is None else output.embedding[:count]
    return ModelOutput(output.logits[:count], output.scores[:count], embedding)
