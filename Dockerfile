# Works with and without a GPU: the CUDA libraries come with the torch wheel, the driver from the host.
# Every package has the version and hash that requirements/container.txt gives.
#   docker build -t gpu-extract .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" gpu-extract \
#       extract -a /data/alignments.fsa -fr /data/clip.mp4 -fc /data/faces
FROM python:3.12-slim AS build
# Our C code needs a compiler once.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/gpu-extract
WORKDIR /src
# Before our own files, so that changing those does not download the packages again.
COPY requirements/container.txt requirements/
RUN /opt/gpu-extract/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/container.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY kernels kernels/
COPY gpu_extract gpu_extract/
# setuptools is in the lock, too.
RUN /opt/gpu-extract/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/gpu-extract/bin/pip check

FROM python:3.12-slim
# gcc and libc6-dev: Triton compiles its launcher on first use. libgl1 and libglib2.0-0: opencv-python links them.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 app
COPY --from=build /opt/gpu-extract /opt/gpu-extract
ENV PATH=/opt/gpu-extract/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER app
WORKDIR /data
ENTRYPOINT ["gpu-extract"]
