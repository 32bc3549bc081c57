"""Every setting of the service: one frozen object, from flags, the environment (``SONOTAG_...``) and a ``.env`` file.

Flags win over the environment, the environment over ``.env``, and that over the defaults. Each field's description says
what it does and why its default is what it is; `sonotag settings` and the flags of `sonotag serve` show them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pydantic
from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.gpu_choice import count_workers
from service.machine import Machine
from service.postprocess.event_config import EventConfig

PREFIX = "SONOTAG_"
DOTENV_FILE = ".env"
DEFAULT_BUNDLE = "ast-tiny-16-16-5s"
_BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
# uvicorn's own default: a proxy on the same machine.
_LOCAL_PROXIES = "127.0.0.1,::1"


class BundleRef(NamedTuple):
    """A bundle to serve: the name it is served under, and its folder."""

    name: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}={self.folder}"


EMBEDDED_BUNDLE = BundleRef(DEFAULT_BUNDLE, Path(__file__).parent / "bundles" / DEFAULT_BUNDLE)


def _parse_bundles(value: object) -> object:
    if not isinstance(value, str):
        return value
    bundles: list[BundleRef] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, folder = part.partition("=")
        if not equals or not folder or not _BUNDLE_NAME.fullmatch(name):
            raise ValueError(f"{part!r} is not name=folder")
        if any(bundle.name == name for bundle in bundles):
            raise ValueError(f"{name!r} is there twice")
        bundles.append(BundleRef(name, Path(folder).expanduser()))
    return tuple(bundles) or (EMBEDDED_BUNDLE,)


def _parse_events(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error


def _split_commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin")
    return value


def _check_hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    for host in value:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host name; it goes without scheme and port")
    return tuple(host.lower() for host in value)


def _check_root_path(value: str) -> str:
    if value and not re.fullmatch(r"(/[^/?#\s]+)+", value):
        raise ValueError("it must begin with a slash and end without one")
    return value


def _check_proxies(value: str | None) -> str | None:
    for part in (value or "*").split(","):
        if part.strip() != "*":
            ipaddress.ip_network(part.strip(), strict=False)
    return value


class Settings(BaseSettings):
    """The settings; each field's description is its documentation.

    Raises:
        pydantic.ValidationError: A value is out of range. `service.settings_source.load_settings` makes one line of it.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=DOTENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # compose files pass unset variables on as empty ones
        extra="ignore",  # a .env file is shared with other programs
        frozen=True,
        validate_default=False,
    )

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. The default is this machine only; any other needs API keys, or insecure.",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port. 0 takes a free one and prints it.")
    unix_socket: Path | None = Field(
        None, description="Listen on this unix socket instead of host and port; for a proxy on the same machine."
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Worker processes. Each loads the models, so the default is one, or one for each of SONOTAG_GPUS; more use "
        "more cores and carry more streams.",
    )
    gpus: Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], NoDecode, pydantic.BeforeValidator(_split_commas)] = Field(
        (),
        description="GPUs to use, by their numbers in nvidia-smi: each worker gets one, in turn. By default all workers share "
        "the first.",
        json_schema_extra={"range": "0,1,..."},
    )
    bundles: Annotated[tuple[BundleRef, ...], NoDecode, pydantic.BeforeValidator(_parse_bundles)] = Field(
        (EMBEDDED_BUNDLE,),
        description="Models to serve, name=folder,...; the first is the default model. By default the embedded one.",
        json_schema_extra={"range": "name=folder,name=folder,..."},
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto",
        description="Where models run. auto takes CUDA where a session really gets it, else the CPU; "
        "cuda or tensorrt that cannot be had stops the start.",
    )
    tensorrt_cache: Path | None = Field(
        None,
        description="Folder for the engines that TensorRT compiles, which takes it minutes (SONOTAG_PROVIDER=tensorrt). "
        "By default sonotag/tensorrt in the user's cache (XDG_CACHE_HOME, ~/.cache).",
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto",
        description="What models run in. auto takes what sonotag bench --tune measured, else the first that the bundle lists "
        "for the provider and holds.",
    )
    model_memory_bytes: int | None = Field(
        None,
        ge=64 * 1024**2,
        le=2**40,
        description="Memory that a model from elsewhere may take to be loaded and to run one window, which is tried first, in "
        "a process of its own; more stops the start, or the reload. By default 1 GiB and four times the size of its files.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads a model runs on, in however many runs at once. By default the cores, divided by the workers.",
    )
    max_clip_seconds: float = Field(
        7200, gt=0, le=86_400, description="Longest clip that REST takes. Two hours: a film or a long recording."
    )
    max_body_bytes: int = Field(
        2 * 1024**3,
        ge=1024,
        le=2**40,
        description="Largest body that REST takes. 2 GiB hold two hours of 16-bit stereo at 48 kHz (1.3 GiB).",
    )
    max_spooled_bodies: int = Field(
        8 * 1024**3,
        ge=1024**2,
        le=2**50,
        description="Bytes that the bodies of requests may have on disk (TMPDIR) together, over all workers; one that would be "
        "too many is answered 503. A body of up to 1 MiB (64 KiB while a worker reads 128 or more) is in memory and not "
        "counted. 8 GiB are four of the largest bodies; a disk that has less needs less.",
        json_schema_extra={"range": "1048576 to 1125899906842624"},  # %g would round it
    )
    max_decoders: int = Field(
        16,
        ge=1,
        le=1024,
        description="Files that are decoded at once in one worker, each in a process of its own, for as long as they are "
        "scored; as many wait, more are answered 503. 16 let short clips by while long ones take their time.",
    )
    max_container_streams: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Streams with encoding=auto that are decoded at once in one worker, each in a process of its own (about "
        "8 MB); raw samples need none. 64 take 0.5 GB.",
    )
    decode_timeout_seconds: float = Field(
        10,
        ge=1,
        le=3600,
        description="How long decoding may take for the next second of sound, and how much CPU time it may use without giving "
        "any; then its process is ended and the request answered 422. Real sound takes milliseconds.",
    )
    decoder_memory_bytes: int = Field(
        512 * 1024**2,
        ge=64 * 1024**2,
        le=64 * 1024**3,
        description="Memory that decoding one file or stream may use. 512 MiB hold the index of an MP4 of three days.",
    )
    receive_timeout_seconds: float = Field(
        20,
        gt=0,
        le=3600,
        description="How long the head of a request may take, and how long its body may pause; a body that comes with less "
        "than 1 kB/s is given up too (408). 20 s outlast a bad connection, not one that is held open on purpose.",
    )
    max_messages_per_second: float = Field(
        20,
        gt=0,
        le=1_000_000,
        description="Text messages that one stream may send, ten seconds' worth at once, and as many pings; more ends "
        "it with 4429. A slider on a page sends a few a second. Frames of sound are not counted.",
    )
    max_streams: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Live streams open at once, over all workers. Where it is not set, what sonotag bench measured for this "
        "model and machine (SONOTAG_CAPACITY_FILE) holds in place of the default. A stream costs memory (a window and what is "
        "ahead, under 1 MB) even when it is silent; 1000 stay under 1 GB.",
    )
    capacity_file: Path | None = Field(
        None,
        description="Where sonotag bench writes how many live streams this machine can take, and how a model runs best on it; "
        "the service reads it when it starts. By default sonotag/capacity.json in XDG_STATE_HOME, or in ~/.local/state.",
    )
    live_share: float = Field(
        0.7,
        gt=0,
        le=1000,
        description="Which part of the windows a second that a model can do now live streams may ask for together; one that "
        "would be too many is refused. The rest is for clips, and keeps the lag short. Above 1 nobody is refused for that.",
    )
    max_queue_windows: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Windows that may wait for a model in one worker. A full queue answers 503 at once; 256 are 8 s on two "
        "CPU cores, which is still worth waiting for.",
    )
    request_timeout_seconds: float = Field(
        30, gt=0, le=3600, description="How long one window of a request may wait for the model before it is 503."
    )
    watchdog_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="A run of the model that takes longer hangs: its callers get an error and the worker is replaced. "
        "No run takes a tenth of the default, on a CPU or a GPU.",
    )
    send_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="A client that takes nothing of what is sent to it for this long is told so and closed; by HTTP, where "
        "nothing can be told in the middle of an answer, it is cut off. A network that is gone for half a minute is seldom "
        "back soon.",
    )
    max_lag_seconds: float = Field(
        2,
        gt=0,
        le=3600,
        description="A live window that would be answered later than this is dropped and announced. After two seconds "
        "a result is of little use to somebody who listens.",
    )
    max_ahead_seconds: float = Field(
        10,
        gt=0,
        le=3600,
        description="How much sound of one stream may be received and not scored before its reading pauses. Ten seconds "
        "are one long window.",
    )
    idle_seconds: float = Field(
        60, gt=0, le=86_400, description="A stream without sound or keep_alive for this long ends with 4408."
    )
    max_stream_seconds: float = Field(
        86_400, gt=0, le=31_536_000, description="A stream older than this ends with 4408. A day, so that none is forgotten."
    )
    max_frame_bytes: int = Field(
        1024**2,
        ge=1024,
        le=64 * 1024**2,
        description="Largest websocket frame; more ends with 4413. 1 MiB are five seconds of 16-bit stereo at 48 kHz.",
    )
    resume_seconds: float = Field(
        30,
        ge=0,
        le=300,
        description="A stream whose connection broke is kept this long for a client that comes back with its resume_token. "
        "30 s are a tunnel or a change of network; 0 keeps none.",
    )
    reload_seconds: float = Field(
        300,
        ge=0,
        le=86_400,
        description="After a reload, how long streams go on with the models they began with; then they are told to come again. "
        "Both are in memory meanwhile.",
    )
    drain_seconds: float = Field(
        30,
        ge=0,
        le=3600,
        description="After SIGTERM, how long what is running may take to finish. 30 s is what orchestrators give by default.",
    )
    events: Annotated[EventConfig, NoDecode, pydantic.BeforeValidator(_parse_events)] = Field(
        EventConfig(),
        description="What counts as an event where a request does not say it, as JSON. The thresholds are probabilities, "
        "the rest seconds; the defaults favour few false onsets.",
        json_schema_extra={"range": "a JSON object of onset_threshold, offset_threshold, min_duration, max_gap, per_label"},
    )
    api_keys_file: Path | None = Field(
        None,
        description="API keys, made by sonotag keys create; read anew when it changes. Without it everybody is let in, and "
        "only this machine can reach the service.",
    )
    insecure: bool = Field(
        False,
        description="Let everybody in who can reach the service, also from other machines. For where something in front asks "
        "who they are.",
        json_schema_extra={"range": "true or false"},
    )
    token_secret_file: Path | None = Field(
        None,
        description="What tokens (POST /v1/tokens) are signed with, at least 32 bytes; the same for several instances behind "
        "one name. By default made anew at each start.",
    )
    metrics: Literal["keys", "open", "off"] = Field(
        "keys",
        description="Who may read /metrics: where there are API keys those with the scope metrics (keys), anybody (open), or "
        "nobody (off).",
    )
    docs: Literal["on", "off"] = Field("on", description="Whether /docs and the descriptions for programs are served.")
    tls_certificate_file: Path | None = Field(
        None, description="Certificate (PEM, with its chain) to serve HTTPS with, for where no proxy does; needs the key too."
    )
    tls_key_file: Path | None = Field(None, description="The certificate's private key (PEM).")
    log_format: Literal["text", "json"] = Field("text", description="One line an event: text to read, json for programs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged. info is one line for each request and stream."
    )
    traces: Literal["off", "otlp"] = Field(
        "off",
        description="otlp sends OpenTelemetry traces (needs the extra otel); where to and how many say the variables OTEL_... "
        "Off by default: it costs some time for each window.",
    )
    root_path: Annotated[str, pydantic.AfterValidator(_check_root_path)] = Field(
        "",
        description="The path under which a proxy in front serves it, so that links are right. The proxy may take it "
        "off or leave it on.",
        json_schema_extra={"range": "/path, or empty"},
    )
    cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        pydantic.BeforeValidator(_split_commas),
        pydantic.AfterValidator(_check_origins),
    ] = Field(
        (),
        description="Origins whose pages may use the service from a browser, REST and websockets, comma separated; * for all. "
        "By default only its own page.",
        json_schema_extra={"range": "https://host[:port],... or *"},
    )
    allowed_hosts: Annotated[
        tuple[str, ...],
        NoDecode,
        pydantic.BeforeValidator(_split_commas),
        pydantic.AfterValidator(_check_hosts),
    ] = Field(
        (),
        description="Names by which the service is reached, comma separated: those of a proxy in front, mostly; * for any. "
        "localhost and the names of the host setting are known, and where others can reach it every numeric address: a page "
        "elsewhere whose name suddenly means this machine is refused.",
        json_schema_extra={"range": "name,*.domain,... or *"},
    )
    forwarded_allow_ips: Annotated[str | None, pydantic.AfterValidator(_check_proxies)] = Field(
        None,
        description="Proxies whose X-Forwarded headers are believed: addresses or networks with commas between them, or *. "
        "By default this machine, and on a unix socket whoever can open it.",
        json_schema_extra={"range": "10.0.0.1,10.1.0.0/16,... or *"},
    )

    _origins: dict[str, str] = pydantic.PrivateAttr(default_factory=dict)
    # No field: it must not be shown anywhere.
    _token_secret: bytes = pydantic.PrivateAttr(default=b"")
    _machine: Machine | None = pydantic.PrivateAttr(default=None)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _give_each_gpu_a_worker(cls, data: Any) -> Any:
        if isinstance(data, dict) and "workers" not in data and data.get("gpus"):
            gpus = _split_commas(data["gpus"])
            return data | {"workers": count_workers(gpus if isinstance(gpus, tuple | list) else ())}
        return data

    @pydantic.field_validator("gpus")
    @classmethod
    def _refuse_a_gpu_that_is_there_twice(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a number is there twice; more workers than GPUs share them (SONOTAG_WORKERS)")
        return value

    @property
    def trusted_proxies(self) -> str:
        """The proxies to believe, with the default filled in."""
        if self.forwarded_allow_ips is not None:
            return self.forwarded_allow_ips
        # A peer on a unix socket has no address to compare; the socket's permissions decide who it is.
        return "*" if self.unix_socket is not None else _LOCAL_PROXIES

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a key."""
        return self.api_keys_file is None

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value came from: `flag`, `environment` or `.env`; a name that is missing has its default."""
        return self._origins

    @property
    def is_stream_limit_set(self) -> bool:
        """Whether somebody chose `max_streams`; then no measurement takes its place."""
        return "max_streams" in self.model_fields_set

    @property
    def token_secret(self) -> bytes:
        """What the workers of one service sign tokens with; empty where each process finds its own."""
        return self._token_secret

    def with_token_secret(self, secret: bytes) -> Settings:
        """Return these settings for workers that share a secret."""
        copy = self.model_copy()
        copy._token_secret = secret
        return copy

    @property
    def machine(self) -> Machine | None:
        """What a service found when it started, the same for all its workers; None where nobody has looked yet."""
        return self._machine

    def with_machine(self, machine: Machine) -> Settings:
        """Return these settings for a service on this machine."""
        copy = self.model_copy()
        copy._machine = machine
        return copy

    def with_origins(self, origins: Mapping[str, str]) -> Settings:
        """Return these settings, knowing where their values came from."""
        copy = self.model_copy()
        copy._origins = dict(origins)
        return copy


def describe_range(name: str) -> str:
    """Return what a setting allows, in words: `0 to 65535`, `one of auto, cpu, cuda`."""
    info = Settings.model_fields[name]
    extra = info.json_schema_extra
    if isinstance(extra, dict) and "range" in extra:
        return str(extra["range"])
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][name]
    schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if high is not None:
        return f"{low:g} to {high:.15g}" if low is not None else f"above {above:g}, at most {high:.15g}"
    return "a path" if schema.get("format") == "path" else "text"
