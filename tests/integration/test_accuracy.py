"""What the service hears in real sound, against transformers running the checkpoint that it was exported from."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import soundfile
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from tests.support.process import ServiceProcess, running
from tests.support.shared import REPOSITORY, shared_path

CHECKPOINT = REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s"
NUM_CLASSES = 47
"""ESC-50 classes that AudioSet has a name for."""

pytestmark = [
    pytest.mark.shared,
    # One of the 128 is empty at this resolution, as it was when the model was trained.
    pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values:UserWarning"),
]


def read_clips() -> dict[Path, str]:
    """Return the clips whose class AudioSet has, each with its name there."""
    folder = shared_path("audio", "esc50")
    with (folder / "clips.csv").open(newline="") as file:
        clips = {folder / row["file"]: row["audioset_label"] for row in csv.DictReader(file) if row["audioset_label"]}
    assert len(set(clips.values())) == NUM_CLASSES
    return clips


def count_right(clips: Mapping[Path, str], scores: Mapping[Path, Mapping[str, float]]) -> int:
    """Return for how many clips the best of the classes' labels is the right one."""
    return sum(max(scores[path], key=scores[path].__getitem__) == label for path, label in clips.items())


def ask_service(url: str, clips: Mapping[Path, str]) -> dict[Path, dict[str, float]]:
    labels = sorted(set(clips.values()))
    query = {"labels": labels, "top_k": len(labels)}
    scores = {}
    with httpx.Client(timeout=60) as client:
        for path in clips:
            response = client.post(f"{url}/v1/classify", params=query, content=path.read_bytes())
            assert response.status_code == 200, response.text
            scores[path] = {tag["label"]: tag["score"] for tag in response.json()["tags"]}
    return scores


def ask_transformers(clips: Mapping[Path, str]) -> dict[Path, dict[str, float]]:
    labels = set(clips.values())
    extractor = ASTFeatureExtractor.from_pretrained(CHECKPOINT)
    model = ASTForAudioClassification.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    names = model.config.id2label
    scores = {}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other actively are many times slower on a busy machine
    try:
        with torch.inference_mode():
            for path in clips:
                waveform, rate = soundfile.read(path, dtype="float32")
                features = extractor(waveform, sampling_rate=rate, return_tensors="pt")
                (row,) = torch.sigmoid(model(**features).logits)
                scores[path] = {names[i]: float(score) for i, score in enumerate(row) if names[i] in labels}
    finally:
        torch.set_num_threads(num_threads)
    return scores


def compare(
    clips: Mapping[Path, str], served: Mapping[Path, Mapping[str, float]], reference: Mapping[Path, Mapping[str, float]]
) -> float:
    """Check that both are as often right, and return the largest difference of a score."""
    assert all(len(scores) == len(set(clips.values())) for scores in (*served.values(), *reference.values()))
    right, expected = count_right(clips, served), count_right(clips, reference)
    assert abs(right - expected) / len(clips) <= 0.01, f"{right} and {expected} of {len(clips)}"
    assert expected / len(clips) > 0.5  # it was trained on them: less would mean that both are wrong
    return max(abs(served[path][label] - reference[path][label]) for path in clips for label in served[path])


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["a quarter", "all"])
def test_the_service_is_as_right_as_transformers_on_the_clips_of_esc_50(
    share: int, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    clips = dict(list(read_clips().items())[::share])
    reference = ask_transformers(clips)
    # The precision that this CPU does fastest.
    assert compare(clips, ask_service(embedded_server.url, clips), reference) < 0.02
    # The same weights on the same samples: the scores themselves are the same, not only their order.
    with running("service", "serve", environ={"SONOTAG_PRECISION": "fp32"}, cwd=tmp_path) as exact:
        assert compare(clips, ask_service(exact.wait_ready(), clips), reference) < 1e-4
