#!/usr/bin/env bash
# Makes the submissions in this folder, round by round, from the competition at data/so762:
#   bash submissions/so762/reproduce.sh                           all rounds
#   bash submissions/so762/reproduce.sh baselines first_round     these alone
# baselines     four single runs for a CPU: course.csv, seed88.csv, default.csv, quick.csv
# first_round   four networks on one fold, for a GPU as all that follows; their blend labels the test part
# second_round  networks that learn from these labels too, on one fold for the score and on everything
# third_round   once more with the labels of the second round: single.csv, ensemble.csv
#
# A run's name ends in a digest of its settings and data. One that learns from predictions takes those by content, so
# that the names from the second round on hold where the first round's logits are the same to the last bit: elsewhere,
# put in the names that the round before has printed.
set -euo pipefail
unset CDPATH
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

run() { bash "$root/run.sh" "$@"; }

baselines() {
    local name
    run --data so762 --experiment course --set train.precision=float32 --set train.threads=1
    run --data so762 --experiment seed88 --set folds=1 --set train.steps=2000
    # What `default` chooses by itself on two cores without bfloat16.
    run --data so762 --set folds=4 --set train.steps=2250 --set train.threads=1 --set train.precision=float32
    run --data so762 --experiment quick
    for name in course seed88 default quick; do  # only submit --name replaces a file that git tracks
        run submit "so762/$name" --data so762 --name "$name"
    done
}

first_round() {
    local masks='{"name":"spec_augment","freq_masks":1,"freq_width":6,"time_masks":1,"prob":0.5}'
    local on_log_mels="augment=[\"session\",$masks]"
    local on_waveforms="augment=[\"waveform_session\",{\"name\":\"codec\",\"prob\":0.2},$masks]"
    local one_fold=(train --data so762 --experiment quick --set features.store=waveform --set folds=1
        --set train.short=repeat --set train.batch_size=128 --set train.steps=2000 --set optim.warmup_steps=200
        --set train.threads=1 --set train.valid_every=1000)
    local wide=(--set encoder.channels=512 --set encoder.aggregate_dim=1536 --set encoder.se_dim=128
        --set train.compile=true)
    run preprocess --data so762 --experiment quick --set features.store=waveform
    run "${one_fold[@]}" --set "$on_log_mels"
    run "${one_fold[@]}" --set "$on_waveforms"
    run "${one_fold[@]}" "${wide[@]}" --set "$on_log_mels"
    run "${one_fold[@]}" "${wide[@]}" --set "$on_waveforms"
    run ensemble so762/quick-8907b5a9 so762/quick-3125f90d so762/quick-7549dc28 so762/quick-8a3b88a0
}

second_round() {
    local labels=(--set train.threads=1 --set train.pseudo_labels=so762/ensemble-90aebdcc --set train.pseudo_share=0.85)
    run preprocess --data so762 --experiment large  # log-mels, where the baselines have not made them
    run train --data so762 --experiment large "${labels[@]}" --set folds=1
    run conditions so762/large-5a68f38d  # the score: held out, and as other sessions would have it
    run train --data so762 --experiment large "${labels[@]}"
    run train --data so762 --experiment large_norm "${labels[@]}"
    run ensemble so762/large-37452e4a so762/large_norm-7b9c75c0
}

third_round() {
    local labels=(--set train.threads=1 --set train.pseudo_labels=so762/ensemble-a0a8dae7 --set train.pseudo_share=0.95
        --set train.steps=2500 --set seed=1)
    run train --data so762 --experiment large "${labels[@]}"
    run train --data so762 --experiment large_norm "${labels[@]}"
    run ensemble so762/large-37452e4a so762/large_norm-7b9c75c0 so762/large-652111e8 so762/large_norm-4a0c7274
    run submit so762/large-652111e8 --data so762 --name single
    run submit so762/ensemble-48e4d956 --data so762 --name ensemble
}

rounds=(baselines first_round second_round third_round)
if [[ $# -gt 0 ]]; then rounds=("$@"); fi
for round in "${rounds[@]}"; do
    case "$round" in
        baselines) baselines ;;
        first_round) first_round ;;
        second_round) second_round ;;
        third_round) third_round ;;
        *) printf "error: unknown round '%s'; valid: baselines, first_round, second_round, third_round\n" "$round" >&2
           exit 2 ;;
    esac
done
