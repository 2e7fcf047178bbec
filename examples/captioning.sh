#!/usr/bin/env bash
# Captioning: from recordings and a description of each to a model and the scores of its descriptions.
#
#     examples/captioning.sh TRAIN.csv DEV.csv TEST.csv [FOLDER [OPTION OF TRAIN...]]
#
# The tables have a header and a row for each recording:
#
#     audio,prediction
#     clips/0001.wav,a dog barks while rain falls
#
# `audio` is a path, from the folder on in which you start this. `prediction` is a sentence about it.
# TRAIN.csv is learned from, DEV.csv decides which model is the best one, and TEST.csv says how good it is: no
# recording may be in two of them. All that is made goes into FOLDER (default: captions).
#
# MODEL=tiny tries it on a laptop, with the small base that comes along. On several GPUs:
# LAUNCH="torchrun --standalone --nproc-per-node gpu --no-python". GENERAL=general.csv, a table of another
# task that the model can do already (with its questions in a column `user_prompt`), shows in each evaluation
# how much of that it forgets.
set -euo pipefail

usage="usage: examples/captioning.sh TRAIN.csv DEV.csv TEST.csv [FOLDER [OPTION OF TRAIN...]]"
train=${1:?$usage} dev=${2:?$usage} test=${3:?$usage} folder=${4:-captions}
shift $(($# < 4 ? $# : 4))

# Train. The base is asked first, then the model at every twentieth of the training: it describes 200
# recordings of DEV.csv, and how much its words agree with the descriptions counts (CIDEr: higher is better;
# words that all descriptions have count little). The best model is kept in run/best; five evaluations in a row
# without a better one end the training.
${LAUNCH:-} mdl-toolkit train --model-name "${MODEL:-mispeech/midashenglm-7b}" \
    --user-prompt "Describe what is to be heard." \
    --train-dataset "$train" --eval-dataset "main=$dev" ${GENERAL:+--eval-dataset "general=$GENERAL"} \
    --num-epochs 5 --eval-steps 0.05 --save-steps 0.05 --save-total-limit 1 \
    --eval-on-start --eval-generate 200 --eval-task caption \
    --metric-for-best cider --early-stopping 5 \
    --output "$folder/run" "$@"

# The best model describes recordings that it has never heard. No score reads a description as a person does:
# the page below lets you listen and compare.
mdl-toolkit inference "$test" --model-name "$folder/run/best" --output "$folder/answers.csv"
mdl-toolkit evaluate "$folder/answers.csv" --task caption --output "$folder/run/evaluation/test"

# One page with the curves, the scores of DEV and TEST, and the rows to listen to, the worst ones first.
mdl-toolkit report "$folder/run" --output "$folder/report.html"
