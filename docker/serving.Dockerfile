# The HTTP service: numpy and ONNX Runtime, no torch. Build from the repository's root:
#   docker build -f docker/serving.Dockerfile -t headrace-serving .
FROM python:3.11.14-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.2.0-14+deb12u1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home headrace \
    && install --directory --owner headrace /data /opt/headrace

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/headrace
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pipelines/__init__.py pipelines/__init__.py
COPY bentos/__init__.py bentos/__init__.py
RUN python -m venv /opt/venv \
    && pip install --constraint constraints.txt --editable '.[cpu,serving]'

COPY pipelines pipelines
COPY bentos bentos
COPY feature_repo feature_repo

ENV HEADRACE_HOME=/data \
    BENTOML_DO_NOT_TRACK=True \
    FEAST_USAGE=False
USER headrace
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
# Beyond loopback the service refuses to answer without a key: HEADRACE_API_KEY, or `headrace keys add`.
CMD ["headrace", "serve", "--host", "0.0.0.0", "--port", "3000"]
