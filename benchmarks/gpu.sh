#!/usr/bin/env bash
# Everything that docs/studies/performance.md says of a GPU, on the one that is there, in ten minutes at most. What was measured is not measured again.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python}" benchmarks/gpu.py run "$@"
"${PYTHON:-python}" benchmarks/gpu.py table
