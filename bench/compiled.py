"""transformers under torch.compile, given a fair chance: every attention is tried, then every mode with the best of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.contestants import Absent, Device, Facts, Run
from bench.transformers_peers import Network, TransformersPeer, dtypes, logits_of, make_network
from export.checkpoint import Checkpoint
from export.signals import Batch
from service.inference.reason import read_reason

MODES = {"cpu": ("default", "max-autotune-no-cudagraphs"), "cuda": ("default", "reduce-overhead", "max-autotune")}
"""Of torch.compile; every attention is tried in the first."""
TRIAL_RUNS = 3
NO_TIME = "not tried: no time was left"


@dataclass(frozen=True, slots=True)
class Attention:
    """One way to attend.

    Attributes:
        name: In the report.
        implementation: Of transformers.
        backend: The one kernel that scaled_dot_product_attention may use; None leaves the choice to torch.
    """

    name: str
    implementation: str
    backend: SDPBackend | None = None


_PLAIN = (Attention("sdpa", "sdpa"), Attention("flex_attention", "flex_attention"), Attention("eager", "eager"))
ATTENTIONS: dict[Device, tuple[Attention, ...]] = {
    "cpu": _PLAIN,
    "cuda": (
        Attention("sdpa, cuDNN", "sdpa", SDPBackend.CUDNN_ATTENTION),
        Attention("sdpa, flash", "sdpa", SDPBackend.FLASH_ATTENTION),
        Attention("sdpa, efficient", "sdpa", SDPBackend.EFFICIENT_ATTENTION),
        *_PLAIN,
        Attention("flash_attention_2", "flash_attention_2"),
    ),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to compile, tried on a batch.

    Attributes:
        mode: Of torch.compile.
        attention: By name.
        milliseconds_a_window: The best of a few runs; None where it does not run.
        error: Why not.
    """

    mode: str
    attention: str
    milliseconds_a_window: float | None
    error: str = ""

    def __str__(self) -> str:
        took = self.error if self.milliseconds_a_window is None else f"{self.milliseconds_a_window:.3g} ms a window"
        return f"torch.compile, mode {self.mode}, attention {self.attention}: {took}"


class Compile(Protocol):
    """As torch.compile."""

    def __call__(self, model: Network, *, mode: str, dynamic: bool) -> Network:
        """Return the network, to be compiled when it is called."""
        ...


def make_compiled(
    checkpoint: Checkpoint,
    device: Device,
    batch: Batch,
    *,
    compiler: Compile = torch.compile,
    has_time: Callable[[], bool] = lambda: True,
) -> tuple[TransformersPeer | Absent, tuple[Trial, ...]]:
    """Return the best way to compile that works, and what was tried.

    Args:
        checkpoint: The model.
        device: Where it runs.
        batch: What the ways are tried on.
        compiler: torch's own; another one in tests.
        has_time: Is asked before each trial; compiling takes minutes.
    """
    precision, dtype = list(dtypes(device).items())[-1]
    name = f"torch.compile {precision}"

    def make(mode: str, attention: Attention) -> TransformersPeer:
        torch.compiler.reset()
        network = logits_of(make_network(checkpoint, device, dtype, attention.implementation))
        compiled = limit(compiler(network, mode=mode, dynamic=False), attention.backend)
        facts = Facts(name, precision, "features to scores", f"mode {mode}, attention {attention.name}")
        return TransformersPeer(checkpoint, device, compiled, dtype, facts)

    def time_way(mode: str, attention: Attention) -> float:
        run = make(mode, attention).prepare(batch)
        run()
        return 1000 * min(_seconds(run) for _ in range(TRIAL_RUNS)) / len(batch.lengths)

    best, trials = search(MODES[device], ATTENTIONS[device], time_way, has_time)
    # Each batch size is compiled anew, when it is prepared.
    torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    return make(*best) if best else Absent(name, "no mode works with any attention"), trials


def search(
    modes: Sequence[str],
    attentions: Sequence[Attention],
    time_way: Callable[[str, Attention], float],
    has_time: Callable[[], bool] = lambda: True,
) -> tuple[tuple[str, Attention] | None, tuple[Trial, ...]]:
    """Return the fastest mode and attention, None where none works, and what was tried.

    Every attention in the first mode, then every other mode with the attention that was fastest; where none worked, with all.

    Args:
        modes: Of torch.compile.
        attentions: To try.
        time_way: Returns the milliseconds of a window, or raises whatever the compiler and the libraries under it raise.
        has_time: Is asked before each trial.
    """
    trials: list[Trial] = []
    best: tuple[str, Attention] | None = None
    least = math.inf

    def attempt(mode: str, attention: Attention) -> None:
        nonlocal best, least
        if not has_time():
            trials.append(Trial(mode, attention.name, None, NO_TIME))
            return
        try:
            milliseconds = time_way(mode, attention)
        except Exception as error:  # noqa: BLE001  (of the compiler and all libraries under it)
            reason = read_reason(error)
            trials.append(Trial(mode, attention.name, None, reason))
            return
        trials.append(Trial(mode, attention.name, milliseconds))
        if milliseconds < least:
            best, least = (mode, attention), milliseconds

    for attention in attentions:
        attempt(modes[0], attention)
    winners = attentions if best is None else (best[1],)
    for mode in modes[1:]:
        for attention in winners:
            attempt(mode, attention)
    return best, tuple(trials)


def limit(network: Network, backend: SDPBackend | None) -> Network:
    """Return a network whose scaled_dot_product_attention uses one kernel, and raises where that cannot be had."""
    if backend is None:
        return network

    def run(values: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return network(values)

    return run


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
