"""The container image, the compose file and the Kubernetes manifests, as far as no engine and no cluster is needed.

`make image-test` (tests/image) runs the Dockerfile's lines in a clean Debian.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from service.metrics_folder import MULTIPROCESS_VARIABLE
from service.settings import Settings
from tests.support.app_server import serving
from tests.support.dockerfile import copy_context, read_stages
from tests.support.programs import find_program
from tests.support.prometheus import promtool
from tests.support.shared import REPOSITORY
from tests.support.websocket import Stream

DOCKER = REPOSITORY / "docker"
COMPOSE = DOCKER / "compose.yaml"
KUBERNETES = DOCKER / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
# The oldest that is still cared for, more or less, and the newest that the checker knows.
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())
VARIABLES = {f"SONOTAG_{name.upper()}" for name in Settings.model_fields}
DRAIN_SECONDS = Settings.model_fields["drain_seconds"].default
# Past its drain a worker has this long until its supervisor kills it.
SUPERVISOR_SECONDS = 15
RAW = {"encoding": "s16le", "sample_rate": 16_000}
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SONOTAG_")}
    return subprocess.run(list(map(str, command)), env=inherited | environ, capture_output=True, text=True, timeout=60)


def read_compose(**environ: str) -> dict[str, Any]:
    """Return the compose file as the real program understands it."""
    done = run(find_program("docker-compose"), "-f", COMPOSE, "--profile", "cpu", "--profile", "gpu", "config", **environ)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = yaml.safe_load(done.stdout)
    return document


def read_manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text())
    return document


def read_ports(service: dict[str, Any]) -> list[str]:
    """Return the addresses at which a service is published. Version 1 of the program writes text, version 2 objects."""
    return [port.partition(":")[0] if isinstance(port, str) else port.get("host_ip", "") for port in service["ports"]]


def read_mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return what is mounted where, and whether it can only be read."""
    mounts: dict[str, tuple[str, bool]] = {}
    for volume in service["volumes"]:
        if isinstance(volume, str):
            source, target, mode = volume.split(":")
            mounts[target] = (source, mode == "ro")
        else:
            mounts[volume["target"]] = (volume["source"], volume.get("read_only", False))
    return mounts


def seconds(text: str) -> float:
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text).groups()  # type: ignore[union-attr]
    return 60 * int(minutes or 0) + int(rest or 0)


def differences(one: object, other: object, path: str = "") -> set[str]:
    """Return the paths at which two documents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {found for key in one | other for found in differences(one.get(key), other.get(key), f"{path}/{key}")}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return {found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{path}/{i}")}
    return set() if one == other else {path}


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = run(Path(sys.executable).with_name("hadolint"), REPOSITORY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_gets_one_onnx_runtime_and_nothing_of_the_exporter(target: str) -> None:
    done = run(sys.executable, DOCKER / "requirements.py", target, REPOSITORY / "pyproject.toml")
    assert done.returncode == 0, done.stderr
    wanted = [Requirement(line) for line in done.stdout.splitlines()]
    installed = [one for one in wanted if one.marker is None or one.marker.evaluate(LINUX)]
    names = {one.name for one in installed}
    assert names & {"onnxruntime", "onnxruntime-gpu"} == {"onnxruntime-gpu" if target == "cuda" else "onnxruntime"}
    assert {"cuda" in one.extras for one in installed} == ({True, False} if target == "cuda" else {False})
    assert {"fastapi", "soundfile", "av"} <= names
    assert not names & {"torch", "transformers", "onnx"}


def test_every_version_in_the_images_is_fixed() -> None:
    assert read_lock(REPOSITORY / "requirements.lock")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_installs_the_tested_versions_by_their_hashes_and_all_that_is_required(target: str) -> None:
    tested, locked = read_lock(REPOSITORY / "requirements.lock"), read_lock(DOCKER / f"{target}.lock")
    assert {name: version for name, version in locked.items() if name in tested} == {
        name: tested[name] for name in locked.keys() & tested.keys()
    }
    # What the tests cannot have beside onnxruntime-gpu, and without a GPU.
    assert {name for name in locked.keys() - tested.keys() if not name.startswith("nvidia-")} <= {"onnxruntime"}
    done = run(sys.executable, DOCKER / "requirements.py", target, REPOSITORY / "pyproject.toml")
    wanted = [Requirement(line) for line in done.stdout.splitlines()]
    for one in wanted:
        if one.marker is None or one.marker.evaluate(LINUX):
            assert one.specifier.contains(locked[normalise(one.name)]), f"{one}: run make lock"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_licence_of_all_that_an_image_ships_is_listed(target: str) -> None:
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| ([\w, ]+) \| \S.* \|$", (REPOSITORY / "docs" / "licences.md").read_text(), re.MULTILINE
    )
    listed = {normalise(name): version for name, version, images in rows if target in images.split(", ")}
    assert listed == read_lock(DOCKER / f"{target}.lock"), "run make sbom"


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SBOM of an environment with what the image `cpu` ships, as far as it is here: its metadata are all that counts."""
    folder = tmp_path_factory.mktemp("sbom")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    [packages] = (folder / "env").glob("lib/python3*/site-packages")
    wanted = read_lock(DOCKER / "cpu.lock").keys()
    for one in importlib.metadata.distributions():
        if normalise(one.name) in wanted:
            source = next(Path(str(file.locate())).parent for file in one.files or () if file.match("*.dist-info/METADATA"))
            shutil.copytree(source, packages / source.name)
    file = folder / "sonotag-cpu.cdx.json"
    # The same line as in scripts/make-sbom, which installs the image's own packages first.
    run(
        *(Path(sys.executable).parent / "cyclonedx-py", "environment", "--pyproject", REPOSITORY / "pyproject.toml"),
        *("--output-reproducible", "--output-file", file, folder / "env" / "bin" / "python"),
    )
    return file


@pytest.mark.slow
def test_an_sbom_is_valid_cyclonedx_and_names_the_packages(sbom: Path) -> None:
    text = sbom.read_text()
    version = SchemaVersion.from_version(json.loads(text)["specVersion"])
    assert JsonStrictValidator(version).validate_str(text) is None
    assert JsonStrictValidator(version).validate_str(text.replace('"version"', '"verison"')) is not None
    found = {normalise(one["name"]): one["version"] for one in json.loads(text)["components"]}
    locked = read_lock(DOCKER / "cpu.lock")
    here = {normalise(one.name) for one in importlib.metadata.distributions()}
    assert found == {name: version for name, version in locked.items() if name in here}
    assert locked.keys() - here <= {"onnxruntime"}, "the tests have onnxruntime-gpu in its place"


@pytest.mark.slow
def test_the_licences_listed_are_those_that_the_packages_state(sbom: Path) -> None:
    done = run(sys.executable, REPOSITORY / "scripts" / "list-licences", sbom)
    row = re.compile(r"^\| (\S+) \| \S+ \| cpu[\w, ]* \| (.+) \|$", re.MULTILINE)
    stated = {normalise(name): licence for name, licence in row.findall(done.stdout)}
    listed = dict(row.findall((REPOSITORY / "docs" / "licences.md").read_text()))
    assert stated == {normalise(name): licence for name, licence in listed.items() if name != "onnxruntime"}, "run make sbom"


@pytest.mark.slow
def test_a_package_whose_licence_nobody_knows_is_not_listed_but_named(sbom: Path, tmp_path: Path) -> None:
    document = json.loads(sbom.read_text())
    document["components"][0] |= {"name": "riddle", "licenses": []}
    (tmp_path / "sonotag-cpu.cdx.json").write_text(json.dumps(document))
    done = run(sys.executable, REPOSITORY / "scripts" / "list-licences", tmp_path / "sonotag-cpu.cdx.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no licence is stated by riddle" in done.stderr


def test_what_builds_the_images_wheel_is_locked_by_hash() -> None:
    assert {"pip", "hatchling"} <= read_lock(DOCKER / "build.lock").keys()


def normalise(name: str) -> str:
    return name.lower().replace("_", "-")


def read_lock(path: Path) -> dict[str, str]:
    """Return the versions in a lock by name; every entry must be exact and, in an image's, have hashes."""
    entries = re.sub(r"\s*\\\n\s+", " ", path.read_text()).splitlines()
    with_hashes = r"( --hash=sha256:[0-9a-f]{64})+" if path.parent == DOCKER else ""
    versions: dict[str, str] = {}
    for entry in entries:
        if not entry.startswith("#"):
            match = re.fullmatch(rf"([\w.-]+)==([\w.]+){with_hashes}", entry.strip())
            assert match, entry
            versions[normalise(match[1])] = match[2]
    return versions


def test_an_unknown_target_is_an_error() -> None:
    done = run(sys.executable, DOCKER / "requirements.py", "tpu", REPOSITORY / "pyproject.toml")
    assert done.returncode == 1
    assert "cpu and cuda" in done.stderr


def test_what_the_dockerfile_copies_is_sent_and_nothing_private_is(tmp_path: Path) -> None:
    copy_context(REPOSITORY, tmp_path)
    stages = read_stages((REPOSITORY / "Dockerfile").read_text())
    assert {"cpu", "cuda"} <= stages.keys()
    for _, lines in stages.values():
        for line in lines:
            if line.startswith("COPY ") and "--from=" not in line:
                for source in line.split()[1:-1]:
                    assert (tmp_path / source).exists(), line
    sent = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in sent} <= {
        *("pyproject.toml", "README.md", "LICENSE", "docker", "service", "export", "bundles"),
    }
    assert not [path for path in sent if path.name.startswith(".env") or path.suffix in {".pyc", ".safetensors"}]


def test_a_script_of_the_image_is_a_whole_shell_script() -> None:
    scripts = sorted(DOCKER.glob("*.sh"))
    assert len(scripts) == 4
    for script in scripts:
        assert os.access(script, os.X_OK), script
        assert script.read_text().startswith("#!/bin/sh\n")
        assert "\nset -eu\n" in script.read_text()
        assert run("/bin/sh", "-n", script).returncode == 0


def test_a_bundle_is_put_into_the_image_and_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    done = run(DOCKER / "install-bundle.sh", tmp_path, "bundles/mine", "mine")
    assert done.returncode == 1
    assert "there is no bundle.json" in done.stderr
    assert run(DOCKER / "install-bundle.sh", tmp_path, "", "custom").returncode == 0


def test_the_health_check_follows_readiness(tmp_path: Path) -> None:
    check = DOCKER / "healthcheck.py"
    with serving() as server:
        port = server.url.rpartition(":")[2]
        assert run(sys.executable, check, SONOTAG_PORT=port).returncode == 0
    assert run(sys.executable, check, SONOTAG_PORT=port).returncode == 1
    path = tmp_path / "socket"
    with serving(unix_socket=path):
        assert run(sys.executable, check, SONOTAG_UNIX_SOCKET=str(path)).returncode == 0
    assert run(sys.executable, check, SONOTAG_UNIX_SOCKET=str(path)).returncode == 1


def test_the_services_of_the_compose_file_are_confined_and_on_this_machine_only() -> None:
    services = read_compose()["services"]
    assert {name: set(service["profiles"]) for name, service in services.items()} == {
        "sonotag-cpu": {"cpu"},
        "sonotag-gpu": {"gpu"},
        "prometheus": {"cpu", "gpu"},
        "grafana": {"cpu", "gpu"},
    }
    for name, service in services.items():
        assert read_ports(service) == ["127.0.0.1"], name
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert service["cap_drop"] == ["ALL"], name
        for source, is_read_only in read_mounts(service).values():
            # The folder of bundles is the user's; the others are ours, or volumes of the engine.
            if source.startswith("/") and source != str(REPOSITORY / "bundles"):
                assert Path(source).is_dir(), source
                assert is_read_only, source


@pytest.mark.parametrize(("name", "target"), [("sonotag-cpu", "cpu"), ("sonotag-gpu", "cuda")])
def test_the_compose_file_starts_the_image_as_it_wants_to_be_started(name: str, target: str) -> None:
    service = read_compose(SONOTAG_WORKERS="3")["services"][name]
    stages = read_stages((REPOSITORY / "Dockerfile").read_text())
    assert service["build"]["target"] == target
    assert service["build"]["target"] in stages
    arguments = {line.split()[1].partition("=")[0] for line in stages["runtime"][1] if line.startswith("ARG ")}
    assert service["build"]["args"].keys() == arguments
    assert service["read_only"] is True
    writable = {mount.partition(":")[0] for mount in service["tmpfs"]}
    [folder] = re.findall(rf'{MULTIPROCESS_VARIABLE}="([^"]+)"', (REPOSITORY / "Dockerfile").read_text())
    assert writable == {"/tmp", str(Path(folder).parent)}
    assert seconds(service["stop_grace_period"]) > DRAIN_SECONDS + SUPERVISOR_SECONDS
    assert service["environment"].keys() <= VARIABLES
    assert service["environment"]["SONOTAG_WORKERS"] == "3"
    # An empty value would hide that of the image.
    assert "" not in service["environment"].values()
    devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
    assert [device["capabilities"] for device in devices] == ([["gpu"]] if target == "cuda" else [])


def test_prometheus_and_grafana_find_what_they_are_given() -> None:
    services = read_compose()["services"]
    scraped = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    [names] = [config["dns_sd_configs"][0]["names"] for config in scraped if config["job_name"] == "sonotag"]
    for name in ("sonotag-cpu", "sonotag-gpu"):
        assert set(names) <= set(services[name]["networks"]["default"]["aliases"])
    mounts = read_mounts(services["grafana"])
    [provider] = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/sonotag.yml").read_text())["providers"]
    assert list(Path(mounts[provider["options"]["path"]][0]).glob("*.json"))
    [source] = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"].split("/")[2].partition(":")[0] in services
    mounts = read_mounts(services["prometheus"])
    [config] = [part.partition("=")[2] for part in services["prometheus"]["command"] if "config.file" in part]
    assert (Path(mounts[str(Path(config).parent)][0]) / Path(config).name).is_file()


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_valid(manifest: Path, version: str) -> None:
    documents = list(yaml.safe_load_all(manifest.read_text()))
    assert len(documents) == 1
    kubernetes_validate.validate(documents[0], version, strict=True)


def test_the_manifests_belong_together() -> None:
    by_kind = {document["kind"]: document for document in (read_manifest(path.name) for path in MANIFESTS)}
    assert by_kind.keys() == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ConfigMap"}
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert by_kind["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert by_kind["Service"]["spec"]["selector"] == labels
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", by_kind["Deployment"]["metadata"]["name"])


def test_what_is_applied_at_once_is_each_of_its_parts_once() -> None:
    applied = [read_manifest(name) for name in read_manifest("kustomization.yaml")["resources"]]
    assert sorted(document["kind"] for document in applied) == [
        *("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"),
    ]
    # Another's configuration is not to be overwritten.
    assert not [document for document in applied if "namespace" in document["metadata"]]


def test_the_gpu_variant_differs_in_image_and_resources_alone() -> None:
    found = differences(read_manifest("deployment.yaml"), read_manifest("deployment-gpu.yaml"))
    container = "/spec/template/spec/containers/0"
    assert {path for path in found if not path.startswith(f"{container}/resources/")} == {f"{container}/image"}
    [gpu] = read_manifest("deployment-gpu.yaml")["spec"]["template"]["spec"]["containers"]
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_a_pod_is_confined_and_may_drain() -> None:
    pod = read_manifest("deployment.yaml")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environ.keys() <= VARIABLES
    Settings(_env_file=None, **{name.removeprefix("SONOTAG_").lower(): value for name, value in environ.items()})
    [wait] = [int(part) for part in container["lifecycle"]["preStop"]["exec"]["command"] if part.isdigit()]
    drain = float(environ["SONOTAG_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > wait + drain + SUPERVISOR_SECONDS
    [user] = re.findall(r"^USER (\d+):(\d+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert user == (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["runAsGroup"]))
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted.values()) == {"/tmp", "/run/sonotag", "/etc/sonotag"}
    memory = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"}
    assert memory == {"tmp", "run"}


def test_a_pod_has_its_keys_from_a_secret_and_is_open_to_nobody_else() -> None:
    pod = read_manifest("deployment.yaml")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    [keys] = [volume for volume in pod["volumes"] if "secret" in volume]
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == keys["name"]]
    files = {environ[name] for name in ("SONOTAG_API_KEYS_FILE", "SONOTAG_TOKEN_SECRET_FILE")}
    assert {str(Path(file).parent) for file in files} == {mount["mountPath"]}
    assert "SONOTAG_INSECURE" not in environ
    # Its own user reads it by its group, and nobody else does.
    assert (keys["secret"]["defaultMode"], pod["securityContext"]["fsGroup"]) == (0o440, 10001)
    said = (KUBERNETES / "kustomization.yaml").read_text()
    assert f"create secret generic {keys['secret']['secretName']} " in said
    assert all(f"--from-file={Path(file).name}" in said for file in files)
    assert pod["enableServiceLinks"] is False, "a Service called sonotag would set SONOTAG_PORT"


def test_the_image_asks_for_keys_and_the_compose_file_does_without_on_this_machine() -> None:
    stages = read_stages((REPOSITORY / "Dockerfile").read_text())
    assert not [line for _, lines in stages.values() for line in lines if "INSECURE" in line and not line.startswith("#")]
    for name in ("sonotag-cpu", "sonotag-gpu"):
        service = read_compose()["services"][name]
        assert service["environment"]["SONOTAG_INSECURE"] == "true"
        assert read_ports(service) == ["127.0.0.1"]


def test_the_probes_ask_what_is_there() -> None:
    [container] = read_manifest("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    with serving() as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert httpx.get(server.url + container[probe]["httpGet"]["path"]).status_code == 200


def read_adapter_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(read_manifest("prometheus-adapter.yaml")["data"]["config.yaml"])["rules"]
    return rules


def metric_of(rule: dict[str, Any]) -> str:
    """Return the name under which the adapter offers a rule's metric."""
    series = str(rule["seriesQuery"]).partition("{")[0]
    name = rule.get("name")
    return re.sub(name["matches"], name["as"], series) if name else series


def query_of(rule: dict[str, Any]) -> str:
    """Return what the adapter asks Prometheus for two pods; its templates are Go's with << and >>."""
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    query = query.replace("<<.LabelMatchers>>", 'namespace="sound",pod=~"sonotag-a|sonotag-b"').replace("<<.GroupBy>>", "pod")
    assert "<<" not in query
    return str(query)


def test_the_autoscaler_asks_for_what_the_adapter_offers() -> None:
    asked = [metric["pods"]["metric"]["name"] for metric in read_manifest("autoscaler.yaml")["spec"]["metrics"]]
    assert sorted(asked) == sorted(map(metric_of, read_adapter_rules()))


async def test_the_adapters_queries_answer_for_each_pod_from_what_a_service_shows(tmp_path: Path) -> None:
    """Prometheus' own tester gets the page of a service with an open stream, as two pods: one busy, one that is idle."""
    with serving() as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            idle = (await client.get("/metrics")).text
            async with Stream(server.url, RAW) as listener:
                await listener.send(bytes(2 * 16_000 * 3))
                await listener.until("tags", 3)
                busy = (await client.get("/metrics")).text
                await listener.send({"type": "stop"})
                await listener.closed()
    series: list[dict[str, str]] = []
    for pod, page in (("sonotag-a", busy), ("sonotag-b", idle)):
        for name, labels, value in re.findall(r"^(sonotag_\w+)(?:\{(.*)\})? (\S+)$", page, re.MULTILINE):
            if name not in {"sonotag_streams_open", "sonotag_window_lag_seconds_bucket"}:
                continue
            labels = ",".join(filter(None, (labels, 'namespace="sound"', f'pod="{pod}"')))
            # A gauge as it is, a counter as it grew from nothing, scraped every 15 s.
            values = f"{value}x8" if name == "sonotag_streams_open" else f"0x3 {value}x4"
            series.append({"series": f"{name}{{{labels}}}", "values": values})
    streams, lag = (query_of(rule) for rule in read_adapter_rules())
    cases = [
        {"expr": streams, "eval_time": "2m", "exp_samples": [case("sonotag-a", 1), case("sonotag-b", 0)]},
        # The fake model is quick: its windows are late by less than the largest bucket, but not by nothing.
        {"expr": f"({lag}) > bool 0", "eval_time": "2m", "exp_samples": [case("sonotag-a", 1), case("sonotag-b", 0)]},
        {"expr": f"({lag}) < bool 30", "eval_time": "2m", "exp_samples": [case("sonotag-a", 1), case("sonotag-b", 1)]},
    ]
    document = {"evaluation_interval": "15s", "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": cases}]}
    (tmp_path / "adapter.yml").write_text(json.dumps(document))
    done = promtool("test", "rules", tmp_path / "adapter.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def case(pod: str, value: float) -> dict[str, object]:
    return {"labels": f'{{pod="{pod}"}}', "value": value}
