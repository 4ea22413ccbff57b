# KServe's storage initializer: its package from PyPI, its script from its Go module (the build context).
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS build
ARG VERSION
RUN python -m venv /prod_venv && /prod_venv/bin/pip install --quiet --no-cache-dir kserve-storage==${VERSION}

FROM ${BASE_IMAGE}
COPY --from=build /prod_venv /prod_venv
COPY --chmod=755 scripts/initializer-entrypoint /storage-initializer/scripts/
RUN useradd --uid 1000 --create-home kserve && chown 1000:1000 /mnt && mkdir /work
ENV VIRTUAL_ENV=/prod_venv PATH=/prod_venv/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /work
USER 1000
ENTRYPOINT ["/storage-initializer/scripts/initializer-entrypoint"]
