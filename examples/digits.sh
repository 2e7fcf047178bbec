#!/usr/bin/env bash
# Spoken digits, from recordings to predictions: docs/en/example-digits.md, ready to run.
#
#     examples/digits.sh DATA [FOLDER]
#
# DATA has fsdd/, fsdd-train.csv and fsdd-test.csv; everything made goes into FOLDER (default: digits).
set -euo pipefail

data=$(realpath "${1:?usage: examples/digits.sh DATA [FOLDER]}")
mkdir -p "${2:-digits}"
cd "${2:-digits}"

mdl-toolkit convert-dataset "$data/fsdd-train.csv" --base-dir "$data" --model-name tiny --output digits-train
mdl-toolkit convert-dataset "$data/fsdd-test.csv" --base-dir "$data" --model-name tiny --output digits-test
mdl-toolkit train --model-name tiny --method full \
    --train-target encoder,projector,decoder,embed_tokens,lm_head \
    --train-dataset digits-train --eval-dataset digits-test --eval-steps 0.25 \
    --batch-size 8 --num-epochs 14 --lr 1e-3 --warmup-steps 200 --lr-scheduler cosine --weight-decay 1.0 \
    --output digits-run
mdl-toolkit inference "$data/fsdd-test.csv" --base-dir "$data" --model-name digits-run/final \
    --max-new-tokens 8 --output digits.csv

# Which digits and which speakers it gets wrong (this takes the extra evaluate), and a page to listen to them.
mdl-toolkit evaluate digits.csv --task classification --slice-by speaker --output digits-run/evaluation/test
mdl-toolkit report digits-run --base-dir "$data"
