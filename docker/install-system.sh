#!/bin/sh
# What the image takes from Debian, and the user that serves: install-system.sh [build]. With `build`, what building needs.
set -eu
export DEBIAN_FRONTEND=noninteractive

apt-get update -q
if [ "${1:-}" = build ]; then
  apt-get install -y -q --no-install-recommends python3-venv
else
  # Sound libraries and ONNX Runtime bring everything but the C++ library along in their wheels.
  apt-get install -y -q --no-install-recommends python3 libstdc++6
  groupadd --system --gid 10001 sonotag
  useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sonotag
  # Metrics of several workers; a tmpfs where the root file system is read-only.
  install -d -o sonotag -g sonotag -m 0700 /run/sonotag
fi
rm -rf /var/lib/apt/lists/*
