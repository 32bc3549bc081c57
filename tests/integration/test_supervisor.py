from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from service import exit_codes
from service.errors import SettingsError
from service.metrics_folder import metrics_folder, prepare_metrics_folder
from tests.support.process import ServiceProcess, running

APP = "tests.support.tiny_app"
TWO = {"SONOTAG_WORKERS": "2", "SONOTAG_MAX_STREAMS": "101"}


def open_stream(service: ServiceProcess, stack: ExitStack) -> tuple[ClientConnection, int]:
    """Open a stream and return it with its worker's process id."""
    stream = stack.enter_context(connect(service.url.replace("http", "ws") + "/ws"))
    return stream, int(stream.recv())


def gauge(service: ServiceProcess, name: str) -> float:
    page = httpx.get(service.url + "/metrics").text
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    assert found, page
    return float(found[1])


def test_the_workers_share_the_address_and_the_limits_and_see_a_gpu_each(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO | {"SONOTAG_GPUS": "3,1", "SONOTAG_MAX_STREAMS": "3"}) as service:
        url = service.wait_ready()
        assert httpx.get(url + "/pid").json()["limit"] == 3
        seen: set[int] = set()
        for holder in range(500):
            answer = httpx.post(url + f"/places/{holder}").json()
            assert answer["is_granted"] == (holder < 3), "counted together, whichever worker is asked"
            seen.add(answer["pid"])
            if len(seen) == 2 and holder >= 3:
                break
        assert len(seen) == 2
        assert service.pid not in seen
        environs = [Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in seen]
        shown = {line for environ in environs for line in environ if line.startswith("CUDA_VISIBLE_DEVICES=")}
        assert shown == {"CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=3"}
        service.send_signal(signal.SIGTERM)
        assert service.wait() == exit_codes.OK


def test_streams_in_all_workers_finish_before_the_service_ends(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO) as service, ExitStack() as stack:
        service.wait_ready()
        streams = [open_stream(service, stack) for _ in range(6)]
        assert gauge(service, "sonotag_streams_open") == 6
        service.send_signal(signal.SIGTERM)
        for stream, _ in streams:
            assert stream.recv() == "going_away"
        for stream, _ in streams:
            stream.send("stop")
            assert stream.recv() == "the last result"
            with pytest.raises(ConnectionClosed):
                stream.recv()
            assert stream.close_code == 1001
        assert service.wait() == exit_codes.OK


def test_a_killed_worker_is_replaced_and_its_live_gauges_go(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    with running(APP, cwd=tmp_path, environ=TWO | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}) as service, ExitStack() as stack:
        service.wait_ready()
        streams = [open_stream(service, stack) for _ in range(8)]
        victim = streams[0][1]
        holders = [httpx.post(service.url + f"/places/{holder}").json()["pid"] for holder in range(8)]
        lost = [stream for stream, pid in streams if pid == victim]
        os.kill(victim, signal.SIGKILL)
        service.wait_for_line(rf"a worker died .*pid={victim} code=-9")
        for stream in lost:
            with pytest.raises(ConnectionClosed):
                stream.recv()
        assert not list(folder.glob(f"gauge_live*_{victim}.db"))
        assert gauge(service, "sonotag_streams_open") == len(streams) - len(lost)
        left = [pid for pid in holders if pid != victim]
        assert httpx.get(service.url + "/pid").json()["taken"] == len(left), "what the dead worker held is free again"
        # The replacement answers on the same address.
        known = {pid for _, pid in streams}
        pids = (httpx.get(service.url + "/pid").json()["pid"] for _ in range(100_000))
        assert next(pid for pid in pids if pid not in known)


def test_a_worker_that_cannot_be_started_ends_no_other_and_is_tried_again(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO) as service, ExitStack() as stack:
        url = service.wait_ready()
        limits = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        victim, survivor = service.children()
        while (opened := open_stream(service, stack))[1] != survivor:
            pass
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(victim, signal.SIGKILL)
        service.wait_for_line("a worker died")
        service.wait_for_line('a worker cannot be started .*reason="Too many open files"')
        assert gauge(service, "sonotag_streams_open") == 1, "those of the dead worker are gone without a descriptor, too"
        assert httpx.get(url + "/pid").json()["pid"] == survivor
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limits)
        pids = (httpx.get(url + "/pid").json()["pid"] for _ in range(100_000))
        assert next(pid for pid in pids if pid != survivor)
        service.send_signal(signal.SIGTERM)
        assert opened[0].recv() == "going_away"
        opened[0].send("stop")
        assert service.wait() == exit_codes.OK
        assert "Traceback" not in service.stderr


def test_a_start_error_of_the_workers_ends_the_service_with_its_exit_code(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO | {"TINY_FAIL": "1"}) as service:
        assert service.wait() == exit_codes.START
        assert "the bundle is altered" in service.stderr
        assert service.output == []


def test_a_second_signal_ends_all_workers_at_once(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO | {"SONOTAG_DRAIN_SECONDS": "3600"}) as service, ExitStack() as stack:
        service.wait_ready()
        stream, pid = open_stream(service, stack)
        service.send_signal(signal.SIGINT)
        assert stream.recv() == "going_away"
        assert service.insist(signal.SIGINT) == exit_codes.UNFINISHED
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO) as service:
        service.wait_for_line("workers are started")
        service.send_signal(signal.SIGTERM)
        assert service.wait() == exit_codes.OK


def test_workers_end_when_the_supervisor_dies_and_free_the_address(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ=TWO) as service, ExitStack() as stack:
        url = service.wait_ready()
        stream, pid = open_stream(service, stack)
        service.send_signal(signal.SIGKILL)
        assert stream.recv() == "going_away", "what is under way may still finish"
        port = url.rsplit(":", 1)[1]
        second = TWO | {"SONOTAG_PORT": port}
        # The worker without a stream has ended or ends now; neither holds the address.
        service.wait_for_line("the supervisor died")
        service.wait_for_line("the supervisor died")
        with running(APP, cwd=tmp_path, environ=second) as successor:
            assert successor.wait_ready() == url
        stream.send("stop")
        assert stream.recv() == "the last result"
        with pytest.raises(ConnectionClosed):
            stream.recv()
        assert pid


def test_the_metrics_of_an_earlier_run_are_not_added_up(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    environ = TWO | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with running(APP, cwd=tmp_path, environ=environ) as service:
        service.wait_ready()
        assert list(folder.glob("*.db"))
        with ExitStack() as stack:
            open_stream(service, stack)
            assert gauge(service, "sonotag_streams_open") == 1
        service.send_signal(signal.SIGKILL)
        service.wait()
    with running(APP, cwd=tmp_path, environ=environ) as service:
        service.wait_ready()
        assert gauge(service, "sonotag_streams_open") == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"PROMETHEUS_MULTIPROC_DIR is .*File exists"):
        prepare_metrics_folder({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "file")})
    environ = {"PROMETHEUS_MULTIPROC_DIR": ""}
    assert prepare_metrics_folder(environ) is None
    assert environ == {}, "the library takes an empty name for one"


def test_a_folder_of_ones_own_is_made_where_it_can_be_and_goes_with_its_service(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with metrics_folder({}, [missing, str(tmp_path)]) as folder:
        assert folder.parent == tmp_path
        (folder / "counter_1.db").touch()
    assert not folder.exists()
    reason = r"metrics of several workers: No such file or directory \(TMPDIR"
    with pytest.raises(SettingsError, match=reason), metrics_folder({}, [missing]):
        pass
    named = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with metrics_folder(named, [missing]) as folder:
        assert folder == tmp_path
    assert tmp_path.exists()


def test_the_supervisor_itself_loads_neither_models_nor_the_web_framework() -> None:
    code = "import sys, service.commands.serve; print(sorted(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    for heavy in ("'fastapi'", "'onnxruntime'", "'uvicorn'"):
        assert heavy not in done.stdout
