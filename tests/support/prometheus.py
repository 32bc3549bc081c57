"""A real Prometheus on the configuration and the rules of the repository, and what its dashboard asks it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.process import running_command
from tests.support.programs import find_program
from tests.support.shared import REPOSITORY

PROMETHEUS = REPOSITORY / "docker" / "prometheus"
CONFIG = PROMETHEUS / "prometheus.yml"
RECORDING = PROMETHEUS / "rules" / "recording.yml"
ALERTS = PROMETHEUS / "rules" / "alerts.yml"
GRAFANA = REPOSITORY / "docker" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "sonotag.json"
GPU_SERIES = frozenset({"sonotag_gpu_memory_used_bytes", "sonotag_gpu_memory_total_bytes", "sonotag_gpu_utilisation_ratio"})
"""They exist only where there is a GPU to ask."""

# Rates need two scrapes; with two busy cores one scrape of all workers takes up to half a second.
_INTERVAL = "2s"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool and return what came of it."""
    command = [find_program("promtool", package="prometheus"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def read_rules(path: Path) -> list[dict[str, Any]]:
    """Return a file's rules."""
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def read_dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def name_series(expression: str) -> set[str]:
    """Return the series that an expression asks for, by name."""
    return set(re.findall(r"\b(?:sonotag_|instance:)[\w:]+", expression)) | set(re.findall(r"\bup\b", expression))


@dataclass(frozen=True)
class Query:
    """One query of one panel, with the dashboard's variables filled in."""

    panel: str
    kind: str
    expression: str


def read_queries() -> list[Query]:
    """Return every query of the dashboard."""
    return [
        Query(panel["title"], panel["type"], target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m"))
        for panel in read_dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


class Prometheus:
    """A client of Prometheus's HTTP API.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=60)

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer that must be a success."""
        answer = self._client.get(path, params=parameters)
        body = answer.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Return the finite values of an instant query, by the values of their labels in the order of the labels' names."""
        values = {}
        for sample in self.get("query", query=expression)["result"]:
            labels = tuple(value for _, value in sorted(sample["metric"].items()))
            values[labels] = float(sample["value"][1])
        return {labels: value for labels, value in values.items() if math.isfinite(value)}

    def series(self) -> set[frozenset[tuple[str, str]]]:
        """Return every series that it has from the service."""
        return {frozenset(labels.items()) for labels in self.get("series", **{"match[]": '{__name__=~"sonotag_.+"}'})}


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus with the repository's configuration on one service, `host:port`, asked every two seconds."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"].update(scrape_interval=_INTERVAL, scrape_timeout=_INTERVAL, evaluation_interval=_INTERVAL)
    config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "sonotag")
    # Here is no name server that knows the service.
    del job["dns_sd_configs"]
    config["scrape_configs"] = [job | {"static_configs": [{"targets": [target]}]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [
        find_program("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=logfmt",
    ]
    with running_command(command, environ=dict(os.environ), cwd=folder) as process:
        address = process.wait_for_line(r'"?Listening on"? .*address=(\S+)')[1]
        process.wait_for_line("Server is ready to receive web requests")
        client = Prometheus(f"http://{address}")
        try:
            yield client
        finally:
            client.close()
            process.send_signal(signal.SIGTERM)
            process.wait()
