#!/usr/bin/env bash
# Reproduces demo.gguf: makes a virtual environment, trains from scratch, exports, evaluates.
#   models/demo/make.sh [FOLDER]      FOLDER keeps the environment and the checkpoints (default: ./build)
# Needs Python 3.11 or later, Node 22 or later with npm, and an hour and a half on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$here/build}
mkdir -p "$work"
work=$(cd "$work" && pwd)

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install --quiet --requirement "$here/requirements.txt"
[ -d "$work/node_modules/node-llama-cpp" ] ||
  npm install --prefix "$work" --no-save --no-audit --no-fund --ignore-scripts=false node@24 node-llama-cpp@3.21.1

"$python" "$here/corpus.py"
for round in 1 2 3 4; do "$python" "$here/train.py" "$work" "$round" --threads "${THREADS:-2}"; done
"$python" "$here/export.py" "$work" "$here/demo.gguf"
"$python" "$here/evaluate.py" "$work" "$here/demo.gguf" \
  --node "$work/node_modules/node/bin/node" --modules "$work" | tee "$work/evaluation.txt"
