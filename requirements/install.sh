#!/bin/sh
# install.sh VENV LOCK EXTRA: the packages of LOCK, torch and this package go into the virtual environment VENV.
# Where there is no such lock, pip chooses what the ranges of pyproject.toml allow, with EXTRA. README.md says why.
set -eu
venv=$1 lock=$2 extra=$3
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ -f "$lock" ]; then
    pip install -q --no-deps --require-hashes -r "$lock"
    pip install -q -r requirements/torch.txt
    pip install -q --no-deps --no-build-isolation -e .
    pip check
else
    echo "There is no $lock: pip takes the newest versions that pyproject.toml allows, untested ones among them." >&2
    pip install -q -e ".[$extra]"
fi
