#!/usr/bin/env bash
# Classification: from recordings and a label for each to a model, its accuracy and its confusions.
#
#     examples/classification.sh TRAIN.csv DEV.csv TEST.csv [FOLDER [OPTION OF TRAIN...]]
#
# The tables have a header and a row for each recording:
#
#     audio,prediction
#     clips/0001.wav,dog bark
#
# `audio` is a path, from the folder on in which you start this. `prediction` is its label, always spelt alike.
# TRAIN.csv is learned from, DEV.csv decides which model is the best one, and TEST.csv says how good it is: no
# recording may be in two of them. All that is made goes into FOLDER (default: classes).
#
# MODEL=tiny tries it on a laptop, with the small base that comes along. On several GPUs:
# LAUNCH="torchrun --standalone --nproc-per-node gpu --no-python". GENERAL=general.csv, a table of another
# task that the model can do already (with its questions in a column `user_prompt`), shows in each evaluation
# how much of that it forgets.
set -euo pipefail

usage="usage: examples/classification.sh TRAIN.csv DEV.csv TEST.csv [FOLDER [OPTION OF TRAIN...]]"
train=${1:?$usage} dev=${2:?$usage} test=${3:?$usage} folder=${4:-classes}
shift $(($# < 4 ? $# : 4))

# Train. The base is asked first, then the model at every twentieth of the training: it names the labels of
# 300 recordings of DEV.csv, and the share of right ones counts (accuracy: higher is better). The best model
# is kept in run/best; five evaluations in a row without a better one end the training. Where some labels are
# rare, --metric-for-best macro_f1 gives each label the same weight.
${LAUNCH:-} mdl-toolkit train --model-name "${MODEL:-mispeech/midashenglm-7b}" \
    --user-prompt "Which sound is this? Answer with its label alone." \
    --train-dataset "$train" --eval-dataset "main=$dev" ${GENERAL:+--eval-dataset "general=$GENERAL"} \
    --num-epochs 5 --eval-steps 0.05 --save-steps 0.05 --save-total-limit 1 \
    --eval-on-start --eval-generate 300 --eval-task classification \
    --metric-for-best accuracy --early-stopping 5 \
    --output "$folder/run" "$@"

# The best model names the labels of recordings that it has never heard, and how sure it is (--scores): so the
# evaluation also says whether "90 % sure" is right nine times out of ten. --choices labels.txt, with a label
# on each line, would let it choose among these alone.
mdl-toolkit inference "$test" --model-name "$folder/run/best" --scores --output "$folder/answers.csv"
mdl-toolkit evaluate "$folder/answers.csv" --task classification --output "$folder/run/evaluation/test"

# One page with the curves, the scores of DEV and TEST, and the rows to listen to, the worst ones first.
mdl-toolkit report "$folder/run" --output "$folder/report.html"
