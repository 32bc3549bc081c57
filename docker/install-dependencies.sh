#!/bin/sh
# The Python environment without Sonotag itself: install-dependencies.sh cpu|cuda, in the folder of the sources.
# Every file that is installed is one whose hash is in a lock (`make lock` renews them).
set -eu
target=$1
here=$(dirname "$0")

# pip and what builds a wheel live beside the environment: nothing in the image installs anything.
python3 -m venv /opt/pip
/opt/pip/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \
  --require-hashes --requirement "$here/build.lock"
python3 -m venv --without-pip /opt/sonotag
/opt/pip/bin/python -m pip --python /opt/sonotag/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
  --require-hashes --requirement "$here/$target.lock"
