# Flower's SuperLink: gRPC for nodes, HTTP for control. Context: the repository's root.
ARG PYTHON=python:3.11.13-slim-bookworm

FROM ${PYTHON} AS build
COPY requirements.lock /src/requirements.lock
RUN python -m venv /opt/lumos/venv \
 && /opt/lumos/venv/bin/pip install --no-cache-dir --constraint /src/requirements.lock flwr==1.39.0

FROM ${PYTHON}
RUN groupadd --gid 49999 app && useradd --uid 49999 --gid 49999 --no-create-home app \
 && install -d -o app -g app /state
COPY --from=build /opt/lumos/venv /opt/lumos/venv
COPY docker/healthcheck.py /opt/lumos/healthcheck.py
ENV PATH=/opt/lumos/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLWR_HOME=/state/flower \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
WORKDIR /state
USER 49999:49999
EXPOSE 9092
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 \
  CMD ["python", "/opt/lumos/healthcheck.py", "tcp://127.0.0.1:9092"]
CMD ["flower-superlink", "--help"]
