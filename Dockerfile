# One image for every process of the fleet; compose.yaml says which process a container runs.
#
#   docker build -t consonance:local .
#
# DEBIAN       tag of the base image; its Python is used: 3.11 in bookworm, 3.13 in trixie
# TORCH_INDEX  where PyTorch comes from, and nothing else does: the builds without CUDA; empty: from
#              wherever pip looks for the rest
#
# A pip.conf of your own (a mirror, a certificate) is for the build alone and in no layer:
# `docker build --secret id=pip,src=pip.conf .`

ARG DEBIAN=bookworm-slim

FROM docker.io/library/debian:${DEBIAN} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# What is listed, in the very bytes that are listed, and nothing beside it.
ARG LOCKED="--require-hashes --no-deps --no-build-isolation --use-pep517"
ENV DEBIAN_FRONTEND=noninteractive \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/consonance
ENV PATH=/opt/consonance/bin:$PATH
WORKDIR /src

# From what changes least to what changes most, so that a change of ours builds in seconds.
COPY locks locks
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install $LOCKED -r locks/build.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install $LOCKED ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r locks/torch-cpu.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install $LOCKED -r locks/runtime.txt \
    && python -c "import torch; assert not torch.version.cuda, f'this is the build for CUDA {torch.version.cuda}; TORCH_INDEX names where the one without is'"
COPY pyproject.toml ./
COPY README.md LICENSE ./
COPY schemas schemas
COPY bus bus
COPY lora lora
COPY services services
RUN pip install --no-deps --no-build-isolation --no-index . \
    && pip check \
    && pip uninstall --yes hatchling editables pip

FROM docker.io/library/debian:${DEBIAN}
LABEL org.opencontainers.image.title="Consonance" \
      org.opencontainers.image.description="A text-embedding service that learns from the clashes between its answers and its users." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/consonance --shell /usr/sbin/nologin consonance \
    && install --directory --owner=consonance --group=consonance --mode=0700 /var/lib/consonance
COPY --from=build /opt/consonance /opt/consonance
# The root file system may be read-only: what is fetched from the model hub goes to the state, too.
ENV PATH=/opt/consonance/bin:$PATH \
    HF_HOME=/var/lib/consonance/hub \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    TOKENIZERS_PARALLELISM=false
USER 10001:10001
WORKDIR /var/lib/consonance
CMD ["consonance", "--help"]
