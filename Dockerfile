# Two images: `cpu` (exact sampling on any machine, without torch and kornia) and `cuda` (all of it).
#   docker build --target cpu -t gpu-extract:cpu --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" gpu-extract:cpu \
#       extract -a /data/alignments.fsa -fr /data/clip.mp4 -fc /data/faces
# docs/container.md says more. `make rehearsal` follows these steps without a container daemon: tests/rehearsal.py.

# Debian's own Python, so that its security updates and the system's are one, and a rehearsal can make the same base from
# Debian's packages. No CUDA base image: the libraries come with the torch wheel, the driver from the host.
FROM debian:trixie-slim AS python
# tini: as PID 1 Python would ignore signals until it has set handlers, and would not collect orphans.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/*

FROM python AS tools
# Our C code needs a compiler once. pip stays in an environment of its own and out of the images.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libpython3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/container-build.txt requirements/
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/container-build.txt \
    && python3 -m venv --without-pip /opt/gpu-extract

FROM tools AS wheel
COPY pyproject.toml setup.py README.md LICENSE ./
COPY kernels kernels/
COPY gpu_extract gpu_extract/
RUN /opt/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# The packages before our own files, so that changing those does not download the packages again.
FROM tools AS cpu-packages
COPY requirements/container-cpu.txt requirements/without-cpu.txt requirements/install-image.sh requirements/
RUN requirements/install-image.sh packages cpu
COPY --from=wheel /wheels /wheels
RUN requirements/install-image.sh ours cpu

FROM tools AS cuda-packages
COPY requirements/container-cuda.txt requirements/without-cuda.txt requirements/install-image.sh requirements/
RUN requirements/install-image.sh packages cuda
COPY --from=wheel /wheels /wheels
RUN requirements/install-image.sh ours cuda

FROM python AS service
# Nobody in /etc/passwd is needed: any user works who may write to /data. Group 0 is what an unknown uid is put into.
# There is no VOLUME: one that nobody named would take faces where nobody looks for them.
RUN install -d -o 1000 -g 0 -m 0775 /data
# The compiled kernels on the volume outlive the container. The root is for reading only: HOME is in the tmpfs.
ENV PATH=/opt/gpu-extract/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TRITON_CACHE_DIR=/data/cache/triton
WORKDIR /data
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "gpu-extract"]
# For `serve`; with other commands docker calls the container unhealthy and does nothing about it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["gpu-extract", "health"]
LABEL org.opencontainers.image.title="gpu-extract" \
    org.opencontainers.image.description="Re-extract aligned faces from an alignments file and its frames" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM service AS cpu
COPY --from=cpu-packages /opt/gpu-extract /opt/gpu-extract
USER 1000:0
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM service AS cuda
# Triton compiles its launcher on first use.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libpython3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=cuda-packages /opt/gpu-extract /opt/gpu-extract
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000:0
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
