import pytest
import torch

from export.errors import CheckpointError
from export.names import from_memory, from_original, from_timm, is_original
from tests.support.checkpoints import Spec, random_tensors, to_memory_names, to_original_names


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_hub_names_are_left_alone() -> None:
    tensors = random_tensors(Spec())
    assert_same(from_memory(tensors), tensors)
    assert not is_original(tensors)


def test_the_names_that_transformers_5_holds_in_memory_are_translated() -> None:
    tensors = random_tensors(Spec())
    renamed = to_memory_names(tensors)
    assert f"{'audio_spectrogram_transformer'}.layers.1.attention.q_proj.weight" in renamed
    assert_same(from_memory(renamed), tensors)


def test_original_names_are_translated_and_the_leftover_heads_dropped() -> None:
    tensors = random_tensors(Spec())
    original = {name.removeprefix("module."): tensor for name, tensor in to_original_names(tensors, 2).items()}
    assert is_original(original)
    assert_same(from_original(original), tensors)


def test_unknown_names_are_kept_for_the_check_to_report() -> None:
    stray = {"blocks.0.attn.rel_pos.weight": torch.zeros(1), "gamma": torch.zeros(1)}
    kept = from_timm(stray)
    assert "gamma" in kept
    assert any("rel_pos" in name for name in kept)
    assert "fc_norm.weight" in from_original({"fc_norm.weight": torch.zeros(1)})


def test_a_qkv_that_is_no_three_equal_parts_is_refused() -> None:
    with pytest.raises(CheckpointError, match="10 rows"):
        from_timm({"blocks.0.attn.qkv.weight": torch.zeros(10, 4)})
