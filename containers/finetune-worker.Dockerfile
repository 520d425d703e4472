# The worker: trains the queued runs of the data directory on an NVIDIA card.
#
#   docker build -f containers/finetune-worker.Dockerfile -t tmde-finetune-worker .        (in the root of the repository)

FROM python:3.12.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tmde
WORKDIR /source
# The locked packages come first, in a layer that stays when only TMDE's own code changes. PyTorch is not among them.
COPY requirements/base.txt requirements/base.txt
RUN /opt/tmde/bin/pip install --no-deps --requirement requirements/base.txt
COPY . .
RUN /opt/tmde/bin/pip install --no-deps --no-build-isolation \
    . ./plugins/tmde_cpu ./plugins/tmde_bench_default ./plugins/tmde_runtime_http ./plugins/tmde_unsloth ./plugins/tmde_axolotl

# The same image as the app's: environments in /data/envs name this Python by its path.
FROM python:3.12.11-slim-bookworm
# Triton compiles a small C program for each kernel while it trains, so it needs gcc and the headers of the C library.
# libgomp1 is OpenMP. Debian replaces versions, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tmde /opt/tmde
RUN install --directory --owner=1000 --group=1000 /data
# utility: nvidia-smi, by which TMDE asks for the driver and the memory of the card.
# The cache of pip is in /data, because /tmp is memory. It lets an interrupted installation go on.
# USER and HOME: libraries ask for them, and the user id of compose.yaml may have no entry in /etc/passwd.
ENV PATH=/opt/tmde/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_CACHE_DIR=/data/cache/pip \
    HOME=/tmp \
    USER=tmde \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TMDE_DATA_DIR=/data \
    TMDE_SUPERVISOR=worker
WORKDIR /data
USER 1000:1000
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["tmde", "worker", "--check"]
# The first start installs the packages of Unsloth into /data/envs. Later starts only examine them. A run with the
# backend cpu installs the packages of that backend before it begins.
CMD ["tmde", "worker", "--pause-runs", "--install", "unsloth"]
