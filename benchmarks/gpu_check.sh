#!/usr/bin/env bash
# All that needs a GPU, in under eight minutes: benchmarks/gpu_check.sh [options of gpu_check.py]
#
# Computes with $PYTHON (python3) where that has CuPy and what the tests need; else makes the
# environment .venv-gpu first, which is not among the eight minutes.  For the ratios to PyTorch's
# times that Python needs PyTorch, too.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
needed="graphviz hypothesis numpy pooch pytest pytest_timeout safetensors threadpoolctl tqdm"
if ! "$python" -c "import cupy, ${needed// /, }" 2>/dev/null; then
    cuda=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p') || true
    if [ -z "$cuda" ]; then
        echo "no GPU: nvidia-smi does not name a CUDA version" >&2
        exit 1
    fi
    if [ ! -e .venv-gpu/ready ]; then
        "$python" scripts/make_environment.py .venv-gpu "dev,cudnn$cuda"
    fi
    python=.venv-gpu/bin/python
fi

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" benchmarks/gpu_check.py "$@"
