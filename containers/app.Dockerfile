# The app: pages, API and the embedded model. It trains nothing and installs no packages of training: see
# finetune-worker.Dockerfile.
#
#   docker build -f containers/app.Dockerfile -t tmde-app .        (in the root of the repository)

FROM python:3.12.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tmde
WORKDIR /source
# The locked packages come first, in a layer that stays when only TMDE's own code changes. PyTorch is not among them.
COPY requirements/base.txt requirements/base.txt
RUN /opt/tmde/bin/pip install --no-deps --requirement requirements/base.txt
COPY . .
RUN /opt/tmde/bin/pip install --no-deps --no-build-isolation \
    . ./plugins/tmde_cpu ./plugins/tmde_bench_default ./plugins/tmde_runtime_http ./plugins/tmde_unsloth ./plugins/tmde_axolotl ./ui

# The same image as the worker's: environments in /data/envs name this Python by its path.
FROM python:3.12.11-slim-bookworm
# libgomp1 is OpenMP, which the embedded runtime computes with. Debian replaces versions, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tmde /opt/tmde
RUN install --directory --owner=1000 --group=1000 /data
# 0.0.0.0: the container's own network, from which compose.yaml publishes the port on 127.0.0.1 alone.
# worker: this image cannot train, so runs wait for a `tmde worker`.
# USER and HOME: libraries ask for them, and the user id of compose.yaml may have no entry in /etc/passwd.
ENV PATH=/opt/tmde/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/tmp \
    USER=tmde \
    TMDE_DATA_DIR=/data \
    TMDE_HOST=0.0.0.0 \
    TMDE_PORT=8321 \
    TMDE_SUPERVISOR=worker
WORKDIR /data
USER 1000:1000
EXPOSE 8321
# Without a proxy, because a proxy of the environment would be asked for 127.0.0.1 too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8321/api/health', timeout=4)"]
# The embedded model (98 MB) is fetched once, into /data. Without it, other runtimes still answer.
CMD ["sh", "-c", "tmde embedded fetch || echo 'The app starts without the embedded model.' >&2; exec tmde serve"]
