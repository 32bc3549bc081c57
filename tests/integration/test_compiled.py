"""Which way to compile takes part: the fastest of those that work, and the report knows all that were tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend

from bench.compiled import ATTENTIONS, MODES, NO_TIME, Attention, Trial, limit, make_compiled, search
from bench.contestants import Absent
from bench.transformers_peers import Network, TransformersPeer
from export.checkpoint import load_checkpoint
from export.signals import Batch
from tests.support.checkpoints import Spec, write_checkpoint

A, B, C = (Attention(name, name) for name in "abc")


def times(table: dict[str, float]) -> Callable[[str, Attention], float]:
    def time_way(mode: str, attention: Attention) -> float:
        key = f"{mode} {attention.name}"
        if key not in table:
            raise RuntimeError(f"{key} does not compile\nand a long trace")
        return table[key]

    return time_way


def test_every_attention_is_tried_in_the_first_mode_and_the_other_modes_with_the_best_of_them() -> None:
    best, trials = search(("x", "y", "z"), (A, B, C), times({"x a": 3.0, "x c": 2.0, "y c": 2.5, "z c": 1.0, "y a": 0.1}))
    assert best == ("z", C)
    assert trials == (
        Trial("x", "a", 3.0),
        Trial("x", "b", None, "x b does not compile"),
        Trial("x", "c", 2.0),
        Trial("y", "c", 2.5),
        Trial("z", "c", 1.0),
    )


def test_where_no_attention_works_in_the_first_mode_the_others_get_all_of_them() -> None:
    best, trials = search(("x", "y"), (A, B), times({"y b": 1.0}))
    assert best == ("y", B)
    assert len(trials) == 4
    assert search(("x",), (A, B), times({}))[0] is None


def test_what_there_was_no_time_for_is_said() -> None:
    left = iter([True, False, False])
    best, trials = search(("x", "y"), (A, B), times({"x a": 1.0}), lambda: next(left))
    assert best == ("x", A)
    assert [trial.error for trial in trials] == ["", NO_TIME, NO_TIME]


def test_a_forced_kernel_is_the_only_one_that_attention_may_use() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def network(values: torch.Tensor) -> torch.Tensor:
        cuda = torch.backends.cuda
        seen.append((cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()))
        return values

    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        limit(network, backend)(torch.zeros(1))
    assert seen == [(True, False, False), (False, True, False)]
    assert limit(network, None) is network
    assert {each.backend for each in ATTENTIONS["cuda"]} >= {SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION}


def test_a_compiler_that_fails_in_a_mode_leaves_the_others_and_one_that_always_fails_leaves_nobody(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "random", Spec())))
    batch = Batch(np.zeros((1, checkpoint.architecture.window_samples), np.int16), np.array([8_000]))
    asked: list[str] = []

    def compile_default_only(model: Network, *, mode: str, dynamic: bool) -> Network:
        assert not dynamic
        asked.append(mode)
        if mode != MODES["cpu"][0]:
            raise RuntimeError("no such mode here")
        return model

    def compile_nothing(model: Network, *, mode: str, dynamic: bool) -> Network:
        raise RuntimeError("no compiler")

    peer, trials = make_compiled(checkpoint, "cpu", batch, compiler=compile_default_only)
    assert isinstance(peer, TransformersPeer)
    assert peer.facts.note.startswith("mode default, attention ")
    assert peer.prepare(batch)().shape == (1, len(checkpoint.labels))
    assert [trial.error for trial in trials if trial.mode != "default"] == ["no such mode here"]
    # The three attentions, the other mode, and the winner made anew.
    assert asked == ["default"] * 3 + [MODES["cpu"][1], "default"]
    nobody, failed = make_compiled(checkpoint, "cpu", batch, compiler=compile_nothing)
    assert isinstance(nobody, Absent)
    assert {trial.error for trial in failed} == {"no compiler"}
