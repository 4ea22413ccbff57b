# The steps data, evaluate and push, and what uploads pipelines and rolls models out: no torch.
# Built from the root of the repository, by BuildKit:
#   docker build -f components/pipeline-cpu.Dockerfile -t docker.io/streetvision/pipeline-cpu:0.1.0 .

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
WORKDIR /build
ENV UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_PREFERENCE=only-system
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv /uv && /uv/bin/pip install -q -c constraints.txt uv && /uv/bin/uv venv -q --python 3.11 /app/.venv
COPY pyproject.toml components/excludes-cpu.txt ./

FROM builder AS dependencies
RUN --mount=type=cache,target=/root/.cache \
    /uv/bin/uv pip install -q --python /app/.venv -c constraints.txt --excludes excludes-cpu.txt \
      -r pyproject.toml --extra data --extra registry --extra onnx --extra pipelines && \
    find /app/.venv -type d \( -name tests -o -name SelfTest \) -prune -exec rm -r {} +

# helm stands in a layer that changes with its version alone.
FROM builder AS helm
ENV STREETVISION_CACHE=/helm
COPY src/streetvision/__init__.py src/streetvision/atomic.py src/streetvision/errors.py streetvision/
COPY manifests/__init__.py manifests/tools.py manifests/
RUN --mount=type=cache,target=/root/.cache \
    /uv/bin/python -c 'import manifests.tools, shutil; shutil.copy(manifests.tools.helm(), "/usr/local/bin")'

FROM helm AS charts
COPY manifests/charts.py manifests/
COPY charts charts
RUN /uv/bin/python -m manifests.charts build /source/charts

FROM builder AS source
COPY LICENSE README.md ./
COPY src src
RUN --mount=type=cache,target=/root/.cache \
    /uv/bin/uv pip install -q --python /app/.venv --prefix /source/.venv --no-deps -b constraints.txt .
COPY components/*.py /source/components/
COPY pipelines /source/pipelines
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -s /source -p /app /source

FROM ${BASE_IMAGE} AS pipeline-cpu
ENV PATH=/app/.venv/bin:$PATH PYTHONPATH=/app HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1
WORKDIR /app
COPY --from=dependencies /app /app
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=manifests/bytecode.py,target=/build/bytecode.py \
    python -B /build/bytecode.py \
      boto3.s3.transfer cv2 huggingface_hub._commit_api huggingface_hub.hf_api jinja2 kfp.cli.cli kfp.compiler \
      kfp.dsl.executor_main kfp.kubernetes kubernetes.client kubernetes.config matplotlib.figure mlflow.tracking onnx \
      onnxruntime PIL.ImageDraw PIL.JpegImagePlugin PIL.WebPImagePlugin pyarrow.parquet sqlalchemy && \
    rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/* /usr/lib/python3/dist-packages/* \
      /usr/lib/python3*/ensurepip /usr/local/lib/python3.*/ensurepip /usr/share/python-wheels && \
    echo 'streetvision:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'streetvision:x:10001:' >> /etc/group
COPY --from=helm /usr/local/bin/helm /usr/local/bin/helm
COPY --from=charts /source /app
COPY --from=source /source /app
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["streetvision", "--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
# What the source and git say elsewhere (pipelines/versions.py); kfp's cache depends on the first.
ARG CODE_VERSION=unknown
ENV STREETVISION_CODE_VERSION=${CODE_VERSION} STREETVISION_GIT_SHA=${REVISION}
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="StreetVision pipeline steps (CPU)" \
      org.opencontainers.image.description="Steps data, evaluate and push of the pipelines, their upload, and the rollout" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
