#!/bin/sh
# Sonotag itself, into the environment that install-dependencies.sh made: install-sonotag.sh, in the folder of the sources.
set -eu

# What builds the wheel is locked, too: no isolation, which would fetch it anew.
wheels=$(mktemp -d)
/opt/pip/bin/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir "$wheels" .
/opt/pip/bin/python -m pip --python /opt/sonotag/bin/python install \
  --quiet --no-cache-dir --disable-pip-version-check --no-index --no-deps "$wheels"/*.whl
rm -r "$wheels"

# Both wheels of ONNX Runtime write into one folder: exactly one of them may be there. And torch is the exporter's.
/opt/sonotag/bin/python - <<'CHECK'
from importlib.metadata import distributions

names = {distribution.metadata["Name"].lower() for distribution in distributions()}
runtimes = sorted(names & {"onnxruntime", "onnxruntime-gpu"})
assert len(runtimes) == 1, runtimes
assert not names & {"torch", "transformers", "onnx"}, names
print(f"Sonotag is installed on {runtimes[0]}")
CHECK
