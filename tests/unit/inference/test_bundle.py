from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import BundleError
from service.inference import bundle as module
from service.inference.bundle import MAX_MANIFEST_BYTES, open_bundle
from tests.support.bundles import LABELS, NUM_SAMPLES, write_bundle

Change = Callable[[dict[str, Any]], None]


def test_a_whole_bundle_opens(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "b"))
    assert tuple(bundle.labels) == LABELS
    assert bundle.model_path("fp32") == tmp_path / "b" / "model.fp32.onnx"
    assert bundle.manifest.precisions["fp32"].parity.checks[0].at_least is False
    golden = bundle.load_golden()
    assert golden.waveform.shape == (3, NUM_SAMPLES)
    assert golden.lengths.tolist() == [NUM_SAMPLES, 401, 900]


def test_a_shorter_length_has_the_beginnings_of_the_golden_waveforms_and_scores_of_its_own(tmp_path: Path) -> None:
    def add_scores(arrays: dict[str, Any]) -> None:
        arrays["scores_800"] = arrays["scores"] / 2

    folder = write_bundle(
        tmp_path, golden=add_scores, manifest=lambda m: m.update(format_version=2, windows_samples=[800, NUM_SAMPLES])
    )
    bundle = open_bundle(folder)
    assert bundle.manifest.lengths_samples == (800, NUM_SAMPLES)
    long, short = bundle.load_golden(), bundle.load_golden(800)
    assert short.lengths.tolist() == [800, 401, 800]
    np.testing.assert_array_equal(short.waveform, long.waveform[:, :800])
    np.testing.assert_array_equal(short.scores, long.scores / 2)


def test_a_bundle_of_version_1_has_one_length(tmp_path: Path) -> None:
    assert open_bundle(write_bundle(tmp_path)).manifest.lengths_samples == (NUM_SAMPLES,)


def test_a_length_without_golden_scores_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, manifest=lambda m: m.update(format_version=2, windows_samples=[800, NUM_SAMPLES]))
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read: .*scores_800"):
        open_bundle(folder).load_golden(800)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no bundle\.json"):
        open_bundle(tmp_path)


def test_a_manifest_of_another_version_says_so_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text('{"format_version": 4, "layout": "unknown to us"}')
    with pytest.raises(BundleError, match="bundle format 4; this version of Sonotag reads 1, 2 and 3: export it again"):
        open_bundle(tmp_path)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "bundle.json").open("wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(BundleError, match="larger than"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.pop("name"), "bundle.json does not describe a bundle: name is missing"),
        (lambda m: m.update(windows_samples=[1600, 800]), "windows_samples must rise"),
        (lambda m: m.update(windows_samples=[800, 800, 1600]), "windows_samples must rise"),
        (lambda m: m.update(windows_samples=[399, 1600]), "windows_samples must rise from min_samples"),
        (lambda m: m.update(windows_samples=[800]), "windows_samples must rise from min_samples or more to window_samples"),
        (lambda m: m.update(windows_samples=[*range(1593, 1601), 1600]), "windows_samples must rise"),
        (lambda m: m.update(windows_samples=[*range(1592, 1601)]), "has 9 lengths, at most 8 are served"),
        (lambda m: m.update(name="../up"), "name: string should match"),
        (lambda m: m.update(surprise=1), "there is no surprise in it"),
        (lambda m: m.update(activation="relu"), "activation"),
        (lambda m: m.update(labels=[]), "ids must be"),
        (lambda m: m["labels"].reverse(), "ids must be 0, 1, 2"),
        (lambda m: m.update(precisions={}), "the bundle holds none"),
        (lambda m: m.update(min_samples=NUM_SAMPLES + 1), "min_samples is above window_samples"),
        (lambda m: m.update(window_samples=0), "window_samples"),
        (lambda m: m["precisions"]["fp32"].update(file="../../etc/passwd"), "precisions.fp32.file"),
        (lambda m: m["precisions"]["fp32"].update(sha256="A" * 64), "precisions.fp32.sha256"),
        (lambda m: m["precisions"].update(fp8=m["precisions"]["fp32"]), "fp8"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_the_place(tmp_path: Path, change: Change, reason: str) -> None:
    with pytest.raises(BundleError) as caught:
        open_bundle(write_bundle(tmp_path, manifest=change))
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["golden.npz", "model.fp32.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_bundle(tmp_path) / name).unlink()
    with pytest.raises(BundleError, match=f"incomplete: {name} is missing"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["golden.npz", "model.fp32.onnx"])
def test_one_changed_bit_is_noticed(tmp_path: Path, name: str) -> None:
    path = write_bundle(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"altered: {name}"):
        open_bundle(tmp_path)


def test_the_best_precision_that_is_held_is_chosen_for_each_provider(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path, precisions=("fp32", "fp16")))
    assert bundle.choose_precision("cpu", "auto") == "fp32"
    assert bundle.choose_precision("cuda", "auto") == "fp16"
    assert bundle.choose_precision("cpu", "fp16") == "fp16"


def test_what_a_machine_does_slowly_is_taken_only_where_there_is_nothing_else_or_it_is_asked_for(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "both", precisions=("fp32", "int8")))
    assert bundle.choose_precision("cpu", "auto") == "int8"
    assert bundle.choose_precision("cpu", "auto", slow=("int8",)) == "fp32"
    assert bundle.choose_precision("cpu", "int8", slow=("int8",)) == "int8"
    alone = open_bundle(write_bundle(tmp_path / "alone", precisions=("int8",)))
    assert alone.choose_precision("cpu", "auto", slow=("int8",)) == "int8"


def test_a_precision_that_is_not_held_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path))
    with pytest.raises(BundleError, match=r"holds fp32, not int8 \(SONOTAG_PRECISION\)"):
        bundle.choose_precision("cpu", "int8")


def test_a_bundle_for_another_provider_says_what_it_holds(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path, manifest=lambda m: m.update(preferred={"cuda": ["fp32"]})))
    with pytest.raises(BundleError, match="holds fp32, none of which it lists for cpu"):
        bundle.choose_precision("cpu", "auto")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update(waveform=a["waveform"][:, :-1]),
        lambda a: a.update(waveform=a["waveform"].astype(np.float32)),
        lambda a: a.update(scores=a["scores"][:, :2]),
        lambda a: a.update(scores=a["scores"][:2]),
        lambda a: a.update(scores=a["scores"].astype(np.float64)),
        lambda a: a.update(lengths=a["lengths"].astype(np.int32)),
        lambda a: a.update(lengths=a["lengths"][0]),
        lambda a: a.update(lengths=a["lengths"] + 1),
        lambda a: a.update(lengths=a["lengths"] - 2),
        lambda a: a.update({key: value[:0] for key, value in a.items()}),
    ],
)
def test_golden_arrays_that_do_not_fit_the_manifest_are_refused(tmp_path: Path, change: Change) -> None:
    bundle = open_bundle(write_bundle(tmp_path, golden=change))
    with pytest.raises(BundleError, match=r"golden\.npz does not fit"):
        bundle.load_golden()


@pytest.mark.parametrize("change", [lambda a: a.pop("scores"), lambda a: a.update(scores=np.array([{}], object))])
def test_golden_arrays_that_cannot_be_read_are_refused(tmp_path: Path, change: Change) -> None:
    bundle = open_bundle(write_bundle(tmp_path, golden=change))
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        bundle.load_golden()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"PK\x03\x04 no archive", b"", b"text", npy()])
def test_a_golden_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_bundle(tmp_path)
    (folder / "golden.npz").write_bytes(content)
    document = json.loads((folder / "bundle.json").read_text())
    document["golden_sha256"] = module.hash_file(folder / "golden.npz")
    (folder / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        open_bundle(folder).load_golden()
