"""The image, built and run without an engine: `make image-test`, as root on Debian with debootstrap; several minutes.

The Dockerfile's lines run in a clean Debian, and the result serves as the image's user, with a read-only root file system
and tmpfs where the compose file and the Kubernetes manifests have them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service import exit_codes
from tests.support.dockerfile import Builder, Image, copy_context
from tests.support.process import ServiceProcess, running_command

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
BASE = "debian:bookworm-slim"
TARGETS = os.environ.get("IMAGE_TARGETS", "cpu").split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.fail("this needs root and debootstrap (Debian: apt-get install debootstrap)")
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def builder(folder: Path) -> Builder:
    """The Dockerfile in a clean Debian, with a bundle of one's own under another name."""
    base, context = folder / "debian", folder / "context"
    command = ("debootstrap", "--variant=minbase", SUITE, str(base))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    copy_context(REPOSITORY, context)
    shutil.copytree(REPOSITORY / "service/bundles/ast-tiny-16-16-5s", context / "bundles/mine")
    arguments = {"BUNDLE": "bundles/mine", "BUNDLE_NAME": "mine"}
    return Builder(REPOSITORY / "Dockerfile", context, {BASE: base}, folder, arguments)


@pytest.fixture(scope="module", params=TARGETS)
def image(builder: Builder, request: pytest.FixtureRequest) -> Image:
    return builder.build(request.param)


def inside(image: Image, command: Sequence[str], environ: dict[str, str]) -> list[str]:
    """Return the command that runs one in the image as an engine with `--read-only` does, as process 1."""
    root = shlex.quote(str(image.root))
    uid, gid = image.user.split(":")
    variables = image.environ | environ
    script = f"""
        mount --bind {root} {root} && cd {root} && mount -o remount,ro,bind {root}
        mount -t tmpfs -o mode=1777 tmp {root}/tmp
        mount -t tmpfs -o mode=0700,uid={uid},gid={gid} run {root}/run/sonotag
        mount -t proc proc {root}/proc
        exec chroot --userspec={image.user} {root} /usr/bin/env -i -C {image.workdir} \
            {shlex.join(f"{name}={value}" for name, value in variables.items())} {shlex.join(command)}
    """
    spaces = ("--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    return ["unshare", *spaces, "/bin/sh", "-euc", script]


def run_inside(image: Image, command: Sequence[str], **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(inside(image, command, environ), capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def serving(image: Image, **environ: str) -> Iterator[ServiceProcess]:
    """Start the image's own command, as its user, on a free port, for everybody."""
    given = {"SONOTAG_PORT": "0", "SONOTAG_LOG_FORMAT": "text", "SONOTAG_INSECURE": "true"} | environ
    command = inside(image, [*image.entrypoint, *image.command], given)
    with running_command(command, environ={"PATH": os.environ["PATH"]}, cwd=Path("/")) as service:
        yield service


def stop(service: ServiceProcess) -> int:
    """Send SIGTERM to process 1, as an engine does, and return its exit code. A process 1 has no defaults."""
    [process] = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    os.kill(int(process), signal.SIGTERM)
    return service.wait()


def test_the_commands_are_in_exec_form_and_the_user_is_a_number(image: Image) -> None:
    assert image.shell_forms == []
    assert image.entrypoint + image.command == ["sonotag", "serve"]
    assert image.stop_signal == "SIGTERM"
    assert all(int(part) >= 1000 for part in image.user.split(":"))


def test_one_onnx_runtime_is_there_and_neither_torch_nor_pip(image: Image) -> None:
    code = "from importlib.metadata import distributions as d; print(*(x.metadata['Name'].lower() for x in d()))"
    done = run_inside(image, ["python", "-c", code])
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.split())
    is_cuda = image.environ["SONOTAG_PROVIDER"] == "cuda"
    assert names & {"onnxruntime", "onnxruntime-gpu"} == {"onnxruntime-gpu" if is_cuda else "onnxruntime"}
    libraries = {name for name in names if name.startswith("nvidia-")} - {"nvidia-ml-py"}  # which only asks the driver
    assert bool(libraries) == is_cuda
    assert "sonotag" in names
    assert not names & {"torch", "transformers", "onnx", "pip", "setuptools", "pytest"}


def test_nothing_of_the_image_can_be_written_but_what_is_a_tmpfs(image: Image) -> None:
    done = run_inside(image, ["python", "-c", "open('/tmp/a', 'w'); open('/run/sonotag/a', 'w')"])
    assert done.returncode == 0, done.stderr
    for path in ("/opt/sonotag/a", "/opt/bundles/a", "/var/tmp/a", "/a"):
        done = run_inside(image, ["python", "-c", f"open('{path}', 'w')"])
        assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr, path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_its_bundle_is_healthy_and_drains(image: Image, workers: str) -> None:
    if image.environ["SONOTAG_PROVIDER"] == "cuda":
        done = run_inside(image, [*image.entrypoint, *image.command], SONOTAG_PORT="0", SONOTAG_INSECURE="true")
        assert done.returncode == exit_codes.START
        assert "CUDA cannot be had" in done.stderr
    with serving(image, SONOTAG_WORKERS=workers, SONOTAG_PROVIDER="cpu") as service:
        url = service.wait_ready().replace("0.0.0.0", "127.0.0.1")
        with (REPOSITORY / "examples/speech.wav").open("rb") as file:
            answer = httpx.post(url + "/v1/classify", files={"file": file}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "mine"
        assert answer.json()["tags"][0]["label"] == "Speech"
        assert 'sonotag_audio_received_seconds_total{source="clip"} 5.2' in httpx.get(url + "/metrics").text
        port = url.rpartition(":")[2]
        assert run_inside(image, image.healthcheck, SONOTAG_PORT=port).returncode == 0
        assert stop(service) == exit_codes.OK, service.stderr
        assert "drain is complete" in service.stderr
        assert run_inside(image, image.healthcheck, SONOTAG_PORT=port).returncode == 1


def test_without_keys_it_does_not_start_unless_it_is_told_to(image: Image) -> None:
    done = run_inside(image, [*image.entrypoint, *image.command], SONOTAG_PROVIDER="cpu")
    assert done.returncode == exit_codes.START
    assert "SONOTAG_API_KEYS_FILE" in done.stderr
    assert "SONOTAG_INSECURE=true" in done.stderr


def test_other_commands_are_named_instead_of_serve(image: Image) -> None:
    done = run_inside(image, [*image.entrypoint, "version"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sonotag ")
