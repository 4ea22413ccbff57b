# The steps synthesize and train. Built from the root of the repository, by BuildKit:
#   docker build -f components/pipeline-gpu.Dockerfile -t docker.io/streetvision/pipeline-gpu:0.1.0 .

ARG BASE_IMAGE=python:3.11-slim-bookworm
# Brings what lets a data-centre GPU with an older driver run; CUDA's libraries are in the wheels, pinned like all others.
ARG GPU_BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE_IMAGE} AS builder
WORKDIR /build
ENV UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_INSTALL_DIR=/app/python
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache \
    python3 -m venv /uv && /uv/bin/pip install -q -c constraints.txt uv
COPY pyproject.toml ./
# The CUDA base has no Python: uv brings its own build of 3.11, which needs nothing of the base.
ARG UV_PYTHON_PREFERENCE=only-managed
RUN --mount=type=cache,target=/root/.cache /uv/bin/uv venv -q --python 3.11 /app/.venv

# What is installed, without installing it: `docker build --target resolution --output DIR`.
FROM builder AS resolve
RUN --mount=type=cache,target=/root/.cache \
    /uv/bin/uv pip compile -q --python /app/.venv -c constraints.txt pyproject.toml --no-annotate --no-header \
      --extra data --extra synthesize --extra train --extra onnx --extra registry --extra pipelines -o /resolution.txt
FROM scratch AS resolution
COPY --from=resolve /resolution.txt /

FROM builder AS dependencies
# `cpu` leaves CUDA out, for a look at the image where there is no GPU.
ARG UV_TORCH_BACKEND
RUN --mount=type=cache,target=/root/.cache \
    /uv/bin/uv pip install -q --python /app/.venv -c constraints.txt -r pyproject.toml \
      --extra data --extra synthesize --extra train --extra onnx --extra registry --extra pipelines && \
    find /app/.venv -type d \( -name tests -o -name SelfTest \) -prune -exec rm -r {} +

FROM builder AS source
COPY LICENSE README.md ./
COPY src src
RUN --mount=type=cache,target=/root/.cache \
    /uv/bin/uv pip install -q --python /app/.venv --prefix /source/.venv --no-deps -b constraints.txt .
COPY components/*.py /source/components/
COPY pipelines /source/pipelines
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -s /source -p /app /source

FROM ${GPU_BASE_IMAGE} AS pipeline-gpu
ENV PATH=/app/.venv/bin:$PATH PYTHONPATH=/app HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 NO_ALBUMENTATIONS_UPDATE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
COPY --from=dependencies /app /app
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=manifests/bytecode.py,target=/build/bytecode.py \
    python -B /build/bytecode.py \
      albumentations boto3 cv2 diffusers efficientnet_lite_pytorch kfp.dsl.executor_main mlflow.tracking onnx \
      onnxruntime onnxscript pyarrow.parquet safetensors.torch torch.onnx transformers && \
    rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/* /usr/lib/python3/dist-packages/* \
      /usr/lib/python3*/ensurepip /usr/local/lib/python3.*/ensurepip /usr/share/python-wheels \
      /app/python/*/bin/pip* /app/python/*/lib/python3.*/site-packages/* /app/python/*/lib/python3.*/ensurepip && \
    echo 'streetvision:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'streetvision:x:10001:' >> /etc/group
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
LABEL org.opencontainers.image.title="StreetVision pipeline steps (GPU)" \
      org.opencontainers.image.description="Steps synthesize and train of the pipelines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
