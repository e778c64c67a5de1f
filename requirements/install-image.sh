#!/bin/sh
# install-image.sh packages|ours TARGET: steps of the Dockerfile that both images share, for /opt/gpu-extract.
# `packages`: what container-TARGET.txt locks. `ours`: the wheel in /wheels, then nothing may be missing or unfit but
# what without-TARGET.txt names, and all is compiled, since nobody can write there later.
set -eu
step=$1 target=$2
pip() { /opt/tools/bin/pip --disable-pip-version-check --python /opt/gpu-extract/bin/python "$@"; }

case $step in
packages)
    pip install --no-cache-dir --no-compile --no-deps --require-hashes -r "requirements/container-$target.txt"
    ;;
ours)
    pip install --no-cache-dir --no-compile --no-deps /wheels/*.whl
    pip check | sed 's/^gpu-extract .* requires \(.*\), which is not installed\.$/\1/' | sort >/tmp/missing
    grep -v '^#' "requirements/without-$target.txt" | diff - /tmp/missing
    cd /
    /opt/gpu-extract/bin/python -c 'from gpu_extract.kernels import _columns, _inflate, _jpeg, _opcodes, _png, _sampler, _scanlines, _yuv'
    /opt/gpu-extract/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gpu-extract/lib
    ;;
esac
