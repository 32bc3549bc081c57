"""The service under load: one of our own, or one that runs already; and what its metrics say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from service.bench.processes import Usage, read_usage
from service.child import Child, python_module
from service.client.errors import connection_reason
from service.errors import SonotagError

_READY = re.compile(r"Sonotag is ready on (\S+)")
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
END_SECONDS = 60.0


class TargetError(SonotagError):
    """The service under load does not start, or does not answer."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is under load: the default model, as `/v1/models` describes it."""

    name: str
    sha256: str
    provider: str
    precision: str
    window_seconds: float


class Target:
    """A running service.

    Args:
        url: Where it is.
        pid: Its process, where it is ours.
        api_key: What it asks for: a key that may do all that is measured, and read metrics.
    """

    def __init__(self, url: str, pid: int | None = None, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.pid = pid
        self.api_key = api_key
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    def get(self, path: str) -> httpx.Response:
        """Ask it something.

        Raises:
            TargetError: It does not answer, or not with success.
        """
        try:
            response = httpx.get(self.url + path, headers=self._headers, timeout=30)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise TargetError(f"no answer from {self.url}{path}: {connection_reason(error)}") from error
        return response

    def describe(self) -> ModelFacts:
        """Return the default model."""
        model: dict[str, Any] = self.get("/v1/models").json()["models"][0]
        return ModelFacts(
            name=model["name"],
            sha256=model["source"]["sha256"],
            provider=model["provider"],
            precision=model["precision"],
            window_seconds=model["window_seconds"],
        )

    def count_workers(self) -> int:
        """Return how many workers it has."""
        return int(self.get("/v1/capacity").json()["workers"])

    def read_metrics(self) -> dict[str, float]:
        """Return the samples of `/metrics`, by name and labels as they are written there."""
        return parse_metrics(self.get("/metrics").text)

    def read_usage(self) -> Usage | None:
        """Return what its processes use; None where it is not ours."""
        return None if self.pid is None else read_usage(self.pid)


class OwnServer:
    """A service of our own, on a free port of this machine, for as long as the context is open.

    Args:
        flags: Of `sonotag serve`.
        api_key: For the service, where its settings make it ask for one.
        module: What serves in place of `sonotag`, with the same flags.
        python: The interpreter of another installation, which serves in place of this one.
        variables: Of its environment, beside those of this process.
    """

    def __init__(
        self,
        flags: Sequence[str],
        *,
        api_key: str | None = None,
        module: str = "service",
        python: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._api_key = api_key
        child = python_module(module, "serve", *flags, "--host", "127.0.0.1", "--port", "0")
        if python is not None:
            child = Child((str(python), *child.command[1:]), {k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
        environ = {name: value for name, value in child.environ.items() if name != "SONOTAG_UNIX_SOCKET"}
        environ |= variables or {}
        environ["SONOTAG_LIVE_SHARE"] = "1000"  # what is looked for is the limit of the machine, not that of admission
        # Its own process group: Control-C is for us, who then end it in order.
        self._process = subprocess.Popen(
            child.command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, name="server log", daemon=True)
        self._reader.start()

    def __enter__(self) -> Target:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                if match := _READY.search(line):
                    return Target(match[1], self._process.pid, api_key=self._api_key)
        except BaseException:  # who gives up waiting leaves no service behind
            self._end()
            raise
        code = self._process.wait()
        self._close()
        raise TargetError("the service does not start: " + (self._said[-1].strip() if self._said else f"exit code {code}"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = [*self._said[-20:], line]

    def _close(self) -> None:
        self._reader.join(END_SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


def parse_metrics(text: str) -> dict[str, float]:
    """Return the samples of a page in Prometheus' text format, each under its name with its labels."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if match := _SAMPLE.match(line):
            labels = match["labels"]
            samples[match["name"] + (f"{{{labels}}}" if labels else "")] = float(match["value"])
    return samples


def batch_sizes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    """Return how many batches there were between two readings, by the largest size of their bucket, over all models."""
    cumulative: dict[str, float] = {}
    for name, value in after.items():
        if name.startswith("sonotag_batch_size_windows_bucket") and (match := re.search(r'le="([^"]+)"', name)):
            cumulative[match[1]] = cumulative.get(match[1], 0.0) + value - before.get(name, 0.0)
    counts: dict[str, int] = {}
    below = 0.0
    for bound in sorted(cumulative, key=float):
        if (count := round(cumulative[bound] - below)) > 0:
            counts[f"{float(bound):g}"] = count
        below = cumulative[bound]
    return counts


def total(samples: Mapping[str, float], name: str) -> float:
    """Return the sum of a metric's samples over all labels."""
    return sum(value for key, value in samples.items() if key.partition("{")[0] == name)
