"""After known requests, the counters say what was sent."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.app_server import serving
from tests.support.rest import DOG, MUSIC, SPEECH, heard, measure, wav
from tests.support.runners import FakeRunner


def test_the_counters_agree_with_what_was_sent() -> None:
    clips = {seconds: wav(heard((SPEECH, seconds / 2), (MUSIC, seconds / 2))) for seconds in (1, 2, 5)}
    with serving(FakeRunner(batch_sizes=(1, 2, 4)), max_clip_seconds=60) as server:
        with httpx.Client(base_url=server.url) as client:

            def post(path: str, **options: Any) -> int:
                return client.post(path, **options).status_code

            for clip in clips.values():
                assert post("/v1/classify", content=clip) == 200
            assert post("/v1/classify?hop=0.5", content=clips[2]) == 200
            assert post("/v1/classify", content=clips[5], headers={"Accept": "application/x-ndjson"}) == 200
            assert post("/v1/classify/batch", files=[("file", clips[1])] * 3 + [("file", b"no sound")]) == 200
            assert post("/compat/huggingface", content=clips[1]) == 200
            assert post("/v1/classify?top_k=0", content=clips[1]) == 400
            assert post("/v1/classify", content=b"no sound") == 415
            assert post("/v1/classify", content=wav(heard((DOG, 0.01)))) == 422
            assert post("/v1/classify", content=wav(heard((DOG, 61)))) == 413
            assert post("/nowhere/1", content=b"") == 404
            assert post("/nowhere/2", content=b"") == 404
            assert client.get("/v1/models/none").status_code == 404
            assert client.get("/v1/models/fake").status_code == 200
            assert client.get("/v1/classify").status_code == 405
        values = measure(server.url)
        windows = sum(len(call.lengths) for call in server.runner.calls)
        batches = len(server.runner.calls)

    requests = {name: value for name, value in values.items() if name.startswith("sonotag_requests_total{")}
    assert requests == {
        'sonotag_requests_total{route="/v1/classify",status="200"}': 5,
        'sonotag_requests_total{route="/v1/classify",status="400"}': 1,
        'sonotag_requests_total{route="/v1/classify",status="405"}': 1,
        'sonotag_requests_total{route="/v1/classify",status="413"}': 1,
        'sonotag_requests_total{route="/v1/classify",status="415"}': 1,
        'sonotag_requests_total{route="/v1/classify",status="422"}': 1,
        'sonotag_requests_total{route="/v1/classify/batch",status="200"}': 1,
        'sonotag_requests_total{route="/compat/huggingface",status="200"}': 1,
        'sonotag_requests_total{route="/v1/models/{name}",status="200"}': 1,
        'sonotag_requests_total{route="/v1/models/{name}",status="404"}': 1,
        'sonotag_requests_total{route="other",status="404"}': 2,
    }
    # 1 + 2 + 5 of whole clips, 2 with a hop, 5 by lines, 3 in a batch, 1 for the compatible call, 0.01 of what was too short.
    assert values['sonotag_audio_received_seconds_total{source="clip"}'] == pytest.approx(19.01)
    assert values['sonotag_audio_received_seconds_total{source="stream"}'] == 0
    # Side by side one a second; with the hop of a half four for two seconds.
    assert values['sonotag_windows_scored_total{model="fake"}'] == windows == 1 + 2 + 5 + 4 + 5 + 3 + 1
    assert values['sonotag_batch_size_windows_count{model="fake"}'] == batches
    assert values['sonotag_batch_size_windows_sum{model="fake"}'] == windows
    assert values['sonotag_stage_duration_seconds_count{stage="infer"}'] == batches
    assert values['sonotag_stage_duration_seconds_count{stage="queue"}'] == windows
    assert values['sonotag_stage_duration_seconds_count{stage="postprocess"}'] == windows
    assert values['sonotag_queue_depth_windows{model="fake"}'] == 0
    assert values['sonotag_request_duration_seconds_count{route="/v1/classify"}'] == 10
    model = 'sonotag_model_info{model="fake",precision="fp32",provider="cpu",source_sha256="' + "0" * 64 + '"}'
    assert values[model] == 1


def test_decoding_is_measured_by_the_second_of_sound() -> None:
    with serving() as server:
        httpx.post(f"{server.url}/v1/classify", content=wav(heard((SPEECH, 2.0)), 8_000))
        values = measure(server.url)
    for stage in ("decode", "resample"):
        assert values[f'sonotag_stage_duration_seconds_count{{stage="{stage}"}}'] >= 4
        assert values[f'sonotag_stage_duration_seconds_sum{{stage="{stage}"}}'] > 0
