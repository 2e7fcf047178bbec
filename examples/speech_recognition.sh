#!/usr/bin/env bash
# Speech recognition: from recordings and their transcripts to a model and its word error rate.
#
#     examples/speech_recognition.sh TRAIN.csv DEV.csv TEST.csv [FOLDER [OPTION OF TRAIN...]]
#
# The tables have a header and a row for each recording:
#
#     audio,prediction
#     clips/0001.wav,the quick brown fox
#
# `audio` is a path, from the folder on in which you start this. `prediction` is what is said in it.
# TRAIN.csv is learned from, DEV.csv decides which model is the best one, and TEST.csv says how good it is: no
# recording may be in two of them. All that is made goes into FOLDER (default: speech).
#
# MODEL=tiny tries it on a laptop, with the small base that comes along. On several GPUs:
# LAUNCH="torchrun --standalone --nproc-per-node gpu --no-python". GENERAL=general.csv, a table of another
# task that the model can do already (with its questions in a column `user_prompt`), shows in each evaluation
# how much of that it forgets.
set -euo pipefail

usage="usage: examples/speech_recognition.sh TRAIN.csv DEV.csv TEST.csv [FOLDER [OPTION OF TRAIN...]]"
train=${1:?$usage} dev=${2:?$usage} test=${3:?$usage} folder=${4:-speech}
shift $(($# < 4 ? $# : 4))

# Train. The base is asked first, then the model at every twentieth of the training: it transcribes 300
# recordings of DEV.csv, and the number of wrong, missing and added words counts (WER: lower is better). The
# model with the fewest is kept in run/best; five evaluations in a row without a better one end the training.
${LAUNCH:-} mdl-toolkit train --model-name "${MODEL:-mispeech/midashenglm-7b}" \
    --user-prompt "Transcribe the speech." \
    --train-dataset "$train" --eval-dataset "main=$dev" ${GENERAL:+--eval-dataset "general=$GENERAL"} \
    --num-epochs 5 --eval-steps 0.05 --save-steps 0.05 --save-total-limit 1 \
    --eval-on-start --eval-generate 300 --eval-task asr \
    --metric-for-best wer --early-stopping 5 \
    --output "$folder/run" "$@"

# The best model transcribes recordings that it has never heard. Words are compared as people read them:
# without case and punctuation, "don't" as "do not", Chinese by character.
mdl-toolkit inference "$test" --model-name "$folder/run/best" --output "$folder/answers.csv"
mdl-toolkit evaluate "$folder/answers.csv" --task asr --output "$folder/run/evaluation/test"

# One page with the curves, the scores of DEV and TEST, and the rows to listen to, the worst ones first.
mdl-toolkit report "$folder/run" --output "$folder/report.html"
