#!/bin/sh
# A bundle of your own in the image: install-bundle.sh CONTEXT FOLDER NAME. An empty FOLDER leaves the embedded one alone.
set -eu
context=$1 folder=$2 name=$3

[ -n "$folder" ] || exit 0
if [ ! -f "$context/$folder/bundle.json" ]; then
  echo "BUNDLE is $folder: there is no bundle.json in it (it has to lie in bundles/, the rest of the folder is not sent)" >&2
  exit 1
fi
mkdir -p /opt/bundles
cp -R "$context/$folder" "/opt/bundles/$name"
chmod -R a+rX,go-w /opt/bundles
