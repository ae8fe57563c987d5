#!/usr/bin/env bash
# Resolve pyproject.toml anew into requirements/*.lock: versions and hashes of all platforms and
# Pythons that nbtrain supports, without the address of any registry. pip and uv install them.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate --no-header "$@" pyproject.toml
}
compile "${@}" --extra demo --group dev --group build --output-file requirements/dev.lock
# The same versions as in dev.lock, so that the larger one can be installed over the smaller.
compile --constraint requirements/dev.lock --extra demo --group build \
    --output-file requirements/demo.lock
if grep -n '://' requirements/*.lock; then
    echo 'an address in a lock' >&2
    exit 1
fi
