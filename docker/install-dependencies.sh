#!/bin/sh
# The Python environment without Sonotag itself: install-dependencies.sh cpu|cuda, in the folder of the sources.
set -eu
target=$1
here=$(dirname "$0")

# pip lives beside the environment: nothing in the image installs anything.
python3 -m venv /opt/pip
/opt/pip/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check pip==26.3
python3 -m venv --without-pip /opt/sonotag

python3 "$here/requirements.py" "$target" pyproject.toml >/tmp/requirements.txt
/opt/pip/bin/python -m pip --python /opt/sonotag/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
  --constraint requirements.lock --constraint "$here/cuda.lock" --requirement /tmp/requirements.txt
rm /tmp/requirements.txt
