import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.checkpoint import POSITIONS, Wishes, load_checkpoint
from export.errors import CheckpointError
from export.frontend import Features
from tests.support.checkpoints import (
    LABELS,
    Spec,
    random_tensors,
    to_memory_names,
    to_original_names,
    write_checkpoint,
)
from tests.support.shared import REPOSITORY

ORIGINAL = Spec(hidden_size=64, num_heads=1, stride=(10, 10), max_length=128)


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path


def write_original(path: Path, spec: Spec = ORIGINAL) -> Path:
    torch.save(to_original_names(random_tensors(spec), spec.num_layers), path)
    return path


def test_a_folder_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    spec = Spec(stride=(10, 14), mean=-6.8, std=5.5, problem_type="single_label_classification")
    write_checkpoint(tmp_path / "mine", spec)
    (tmp_path / "mine" / "README.md").write_text("---\ntags:\n- audio\nlicense: bsd-3-clause\n---\n# Mine\n")
    checkpoint = load_checkpoint(str(tmp_path / "mine"))
    assert checkpoint.name == "mine"
    assert checkpoint.architecture == spec.architecture
    assert checkpoint.features == Features(-6.8, 5.5)
    assert checkpoint.labels == LABELS
    assert checkpoint.activation == "softmax"
    assert checkpoint.licence == "bsd-3-clause"
    assert checkpoint.card == "# Mine\n"
    assert (checkpoint.format, len(checkpoint.sha256)) == ("transformers", 64)


@pytest.mark.parametrize("as_bin", [True, False])
@pytest.mark.parametrize("rename", [lambda tensors: tensors, to_memory_names])
def test_both_files_and_both_families_of_names_give_the_same_weights(
    tmp_path: Path, as_bin: bool, rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    tensors = random_tensors(Spec())
    write_checkpoint(tmp_path, tensors=rename(tensors), as_bin=as_bin)
    weights = load_checkpoint(str(tmp_path)).weights
    assert all(torch.equal(weights[name], tensors[name]) for name in tensors)


def test_what_the_caller_says_wins(tmp_path: Path, labels_file: Path) -> None:
    labels_file.write_text("v\nw\nx\ny\nz")
    write_checkpoint(tmp_path / "a")
    wishes = Wishes(labels=labels_file, activation="softmax", mean=0.5, std=2.0, licence="CC0-1.0")
    checkpoint = load_checkpoint(str(tmp_path / "a"), wishes)
    assert (checkpoint.labels, checkpoint.activation) == (tuple("vwxyz"), "softmax")
    assert (checkpoint.features, checkpoint.licence) == (Features(0.5, 2.0), "CC0-1.0")


def test_the_embedded_checkpoint_is_what_its_card_says() -> None:
    checkpoint = load_checkpoint(str(REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s"))
    assert checkpoint.num_parameters == 5_538_953
    assert checkpoint.activation == "sigmoid"
    assert len(checkpoint.labels) == 521


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "wav2vec2"}, "architecture 'wav2vec2'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_attention_heads": 3}, "hidden_size 64 is no multiple of 3 heads"),
        ({"max_length": 8}, "smaller than one patch"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None"),
        ({"num_hidden_layers": 3}, "the checkpoint lacks .*layer.2.* and 13 more"),
        ({"num_hidden_layers": 1}, "which an Audio Spectrogram Transformer does not have"),
        ({"time_stride": 8}, "position_embeddings has shape"),
        ({"id2label": {"0": "a", "1": "b"}}, "the head has 5 outputs, and there are 2 labels"),
        ({"id2label": {str(index): "same" for index in range(5)}}, "'same' is there twice"),
        ({"id2label": None}, "lists no labels"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_rate": 8000}, "sampling_rate is 8000, expected 16000"),
        ({"max_length": 1024}, "max_length is 1024, expected 96"),
        ({"num_mel_bins": 64}, "num_mel_bins is 64, expected 128"),
        ({"std": "wide"}, "mean and std"),
        ({"std": 0}, "mean and std"),
    ],
)
def test_a_preprocessor_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(tmp_path))


def test_features_that_are_not_normalised_stay_as_they_are(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_normalize": False}))
    features = load_checkpoint(str(tmp_path)).features
    assert (features.mean, 2 * features.std) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(str(tmp_path))


def test_without_a_preprocessor_the_caller_can_give_the_numbers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert load_checkpoint(str(tmp_path), Wishes(mean=1.0, std=2.0)).features == Features(1.0, 2.0)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(str(tmp_path))


def test_nothing_there_is_said_so() -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint '/nowhere/at all'"):
        load_checkpoint("/nowhere/at all")


def test_an_original_checkpoint_is_described_by_its_shapes(tmp_path: Path, labels_file: Path) -> None:
    checkpoint = load_checkpoint(str(write_original(tmp_path / "sc.pth")), Wishes(labels=labels_file))
    expected = dataclasses.replace(ORIGINAL.architecture, layer_norm_eps=1e-6)
    assert checkpoint.architecture == expected
    assert (checkpoint.name, checkpoint.format, checkpoint.activation) == ("sc", "original", "softmax")


def test_an_original_checkpoint_of_unusual_size_needs_to_be_told(tmp_path: Path, labels_file: Path) -> None:
    spec = dataclasses.replace(ORIGINAL, stride=(10, 12), max_length=100)
    path = str(write_original(tmp_path / "odd.pth", spec))
    with pytest.raises(CheckpointError, match=r"96 patches fit no stride of .* give --stride and --max-length"):
        load_checkpoint(path, Wishes(labels=labels_file))
    told = load_checkpoint(path, Wishes(labels=labels_file, stride=(10, 12), max_length=100))
    assert told.architecture.grid == (12, 8)


def test_an_original_checkpoint_needs_label_names_that_fit(tmp_path: Path, labels_file: Path) -> None:
    path = str(write_original(tmp_path / "sc.pth"))
    with pytest.raises(CheckpointError, match="--labels"):
        load_checkpoint(path)
    labels_file.write_text("one\ntwo")
    with pytest.raises(CheckpointError, match="5 outputs, and there are 2 labels"):
        load_checkpoint(path, Wishes(labels=labels_file))


def test_another_networks_pth_is_refused(tmp_path: Path, labels_file: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not the original repository's"):
        load_checkpoint(str(tmp_path / "other.pth"), Wishes(labels=labels_file))


def test_an_original_without_blocks_is_refused(tmp_path: Path, labels_file: Path) -> None:
    tensors = to_original_names(random_tensors(ORIGINAL), 2)
    for name in list(tensors):
        if ".mlp.fc1" in name:
            del tensors[name]
    torch.save(tensors, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"lacks .*intermediate\.dense\.weight"):
        load_checkpoint(str(tmp_path / "cut.pth"), Wishes(labels=labels_file))


def test_an_original_with_a_block_of_an_absurd_number_is_refused(tmp_path: Path, labels_file: Path) -> None:
    tensors = to_original_names(random_tensors(ORIGINAL), ORIGINAL.num_layers)
    for number in ("1000000000", "9" * 5000):
        torch.save(tensors | {f"v.blocks.{number}.norm1.weight": torch.ones(64)}, tmp_path / "tall.pth")
        with pytest.raises(CheckpointError, match=r"the checkpoint lacks .*layer\.2\."):
            load_checkpoint(str(tmp_path / "tall.pth"), Wishes(labels=labels_file))


@pytest.mark.parametrize("name", ["v.blocks.0.attn.qkv.weight", "v.blocks.0.mlp.fc1.weight"])
def test_an_original_with_a_number_in_place_of_a_matrix_is_refused(tmp_path: Path, labels_file: Path, name: str) -> None:
    tensors = to_original_names(random_tensors(ORIGINAL), ORIGINAL.num_layers)
    torch.save(tensors | {name: torch.tensor(1.0)}, tmp_path / "flat.pth")
    with pytest.raises(CheckpointError, match="expected"):
        load_checkpoint(str(tmp_path / "flat.pth"), Wishes(labels=labels_file))


def test_another_window_changes_the_positions_and_nothing_else(tmp_path: Path) -> None:
    spec = Spec(max_length=160)
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path, spec)))
    shorter, longer = checkpoint.with_window(1.0), checkpoint.with_window(3.0)
    assert (shorter.architecture.max_length, longer.architecture.max_length) == (99, 299)
    assert (shorter.architecture.grid, longer.architecture.grid) == ((8, 6), (8, 18))
    assert shorter.weights[POSITIONS].shape[1] == 8 * 6 + 2
    assert all(longer.weights[name] is tensor for name, tensor in checkpoint.weights.items() if name != POSITIONS)
    with pytest.raises(CheckpointError, match="a patch alone needs 16"):
        checkpoint.with_window(0.1)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "c")
    secret = tmp_path / "secret"
    secret.write_text("what the exporter may read and nobody should see")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match=f"{name} leads outside"):
        load_checkpoint(str(folder))


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot = write_checkpoint(tmp_path / "models--a--b" / "snapshots" / "main")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert load_checkpoint(str(snapshot)).labels == tuple(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        *(
            json.dumps({"model_type": "audio-spectrogram-transformer", name: number})
            for name, number in {
                "hidden_size": 10**9,
                "num_hidden_layers": 10**6,
                "num_attention_heads": 10**9,
                "intermediate_size": 10**9,
                "num_mel_bins": 10**9,
                "max_length": 10**9,
            }.items()
        ),
    ],
)
def test_a_configuration_that_asks_for_too_much_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(str(folder))
