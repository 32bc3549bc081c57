"""Runs a Dockerfile's own lines in folders and chroots, without an engine: as much of its language as ours uses.

It needs root, mount namespaces (`unshare -m`) and debootstrap. A line that it does not know is an error, so nothing of the
Dockerfile can go unchecked. Each stage is a whole copy of its base.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BUILD_SECONDS = 1200
_MOUNT = re.compile(r"--mount=type=(\w+)(?:,target=(\S+))?")
_VARIABLE = re.compile(r"\$\{(\w+):\+([^}]*)\}|\$\{(\w+)\}|\$(\w+)")
# What pip on this machine needs to reach its index; the image itself knows nothing of it.
_PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "https_proxy", "http_proxy", "no_proxy")


@dataclass
class Image:
    """A stage that is being built, or is built."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stop_signal: str = ""
    shell_forms: list[str] = field(default_factory=list)


class Builder:
    """Builds stages.

    Args:
        dockerfile: The file.
        context: The folder that is sent, after .dockerignore; see `copy_context`.
        bases: A root folder for each image that the Dockerfile begins with.
        folder: Where the stages are put.
        arguments: Build arguments.
    """

    def __init__(
        self, dockerfile: Path, context: Path, bases: Mapping[str, Path], folder: Path, arguments: Mapping[str, str]
    ) -> None:
        self._stages = read_stages(dockerfile.read_text())
        self._context = context
        self._bases = bases
        self._folder = folder
        self._arguments = arguments
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """Build a stage and those it is made of."""
        if name in self._built:
            return self._built[name]
        if name in self._bases:
            return Image(self._bases[name], {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        base_name, lines = self._stages[name]
        base = self.build(base_name)
        image = Image(
            self._folder / name,
            dict(base.environ),
            base.workdir,
            base.user,
            base.entrypoint,
            base.command,
            base.healthcheck,
            base.stop_signal,
            list(base.shell_forms),
        )
        subprocess.run(("cp", "-a", base.root, image.root), check=True)
        arguments: dict[str, str] = {}
        for line in lines:
            self._obey(image, arguments, *line.split(maxsplit=1))
        self._built[name] = image
        return image

    def _obey(self, image: Image, arguments: dict[str, str], word: str, rest: str) -> None:
        match word:
            case "ARG":
                name, _, default = rest.partition("=")
                arguments[name] = self._arguments.get(name, shlex.split(default or "''")[0])
            case "ENV":
                for name, value in (part.split("=", 1) for part in shlex.split(rest)):
                    image.environ[name] = _expand(value, image.environ | arguments)
            case "WORKDIR":
                image.workdir = rest
                (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = rest
            case "COPY":
                self._copy(image, rest)
            case "RUN":
                self._run(image, arguments, rest)
            case "ENTRYPOINT":
                image.entrypoint = _exec_form(image, word, rest)
            case "CMD":
                image.command = _exec_form(image, word, rest)
            case "HEALTHCHECK":
                image.healthcheck = _exec_form(image, word, rest.partition("CMD ")[2])
            case "STOPSIGNAL":
                image.stop_signal = rest
            case "EXPOSE":
                assert rest.isdigit()
            case _:
                raise AssertionError(f"unknown line of the Dockerfile: {word} {rest}")

    def _copy(self, image: Image, rest: str) -> None:
        *sources, target = rest.split()
        origin = self._context
        if sources[0].startswith("--from="):
            origin = self.build(sources.pop(0).removeprefix("--from=")).root
        assert not [source for source in sources if source.startswith("--")], rest
        place = Path(os.path.normpath(Path(image.workdir) / target)).relative_to("/")
        for source in sources:
            found = origin / source.lstrip("/")
            to = image.root / place / (found.name if target.endswith("/") and found.is_file() else "")
            to.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, to, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(found, to)

    def _run(self, image: Image, arguments: dict[str, str], rest: str) -> None:
        # Nothing of this machine is there to be written: packages' scripts do what they like to /etc.
        root = shlex.quote(str(image.root))
        mounts = [f"mount -t proc proc {root}/proc"]
        for kind, target in _MOUNT.findall(rest):
            assert kind == "bind", rest
            place = shlex.quote(f"{image.root}{target}")
            mounts += [
                f"mkdir {place}",
                f"mount --bind {shlex.quote(str(self._context))} {place}",
                f"mount -o remount,ro,bind {place}",
            ]
        command = _MOUNT.sub("", rest).strip()
        environ = image.environ | arguments | {name: os.environ[name] for name in _PIP_VARIABLES if name in os.environ}
        certificates = image.root / "certificates.pem"
        if "PIP_CERT" in os.environ:
            shutil.copy2(os.environ["PIP_CERT"], certificates)
            environ["PIP_CERT"] = "/certificates.pem"
        script = " && ".join(
            (
                *mounts,
                f"exec chroot --userspec={image.user} {root} /usr/bin/env -i "
                + " ".join(shlex.quote(f"{name}={value}") for name, value in environ.items())
                + f" /bin/sh -c {shlex.quote(f'cd {image.workdir} && {command}')}",
            )
        )
        done = subprocess.run(
            ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script),
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        certificates.unlink(missing_ok=True)
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


def copy_context(repository: Path, folder: Path) -> None:
    """Copy what is sent to the builder: the last pattern of .dockerignore that fits a file decides."""
    patterns = [line for line in (repository / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for directory, folders, files in os.walk(repository):
        here = Path(directory).relative_to(repository)
        if here == Path():
            folders[:] = [name for name in folders if name not in {".git", ".venv"}]
        for name in files:
            path = here / name
            if not _is_ignored(path, patterns):
                (folder / here).mkdir(parents=True, exist_ok=True)
                shutil.copy2(repository / path, folder / path)


def _is_ignored(path: Path, patterns: list[str]) -> bool:
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        names = [str(path), *map(str, path.parents)]
        if bare.startswith("**/"):
            bare, names = bare[3:], list(path.parts)
        elif "/" in bare:
            names = [name for name in names if name.count("/") == bare.count("/")]
        if any(fnmatch.fnmatchcase(name, bare) for name in names if name != "."):
            ignored = not pattern.startswith("!")
    return ignored


def read_stages(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return each stage's base and lines."""
    stages: dict[str, tuple[str, list[str]]] = {}
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    for line in filter(None, map(str.strip, lines)):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            stages[match[2]] = (match[1], [])
        else:
            stages[next(reversed(stages))][1].append(line)
    return stages


def _expand(value: str, variables: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return _expand(match[2], variables) if variables.get(match[1]) else ""
        return variables.get(match[3] or match[4], "")

    return _VARIABLE.sub(replace, value)


def _exec_form(image: Image, word: str, rest: str) -> list[str]:
    """Return a command in exec form. In shell form a shell would be process 1 and keep SIGTERM for itself."""
    try:
        return [str(part) for part in json.loads(rest)]
    except ValueError:
        image.shell_forms.append(f"{word} {rest}")
        return ["/bin/sh", "-c", rest]
