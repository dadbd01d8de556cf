#!/usr/bin/env bash
# A model of real size: Qwen3-0.6B's shapes (28 layers, vocabulary 151,936) with seeded random weights,
# made in memory and, the same, written out once as shards and loaded; on 1, 2 and 4 ranks. Checks that
# every run generates the same tokens, and prints TTFT and memory per rank.
# (In bf16 random weights make near-ties that rounding decides: f32 is what must agree.)
# usage: scripts/real-size.sh [TOKENS [DTYPE]]        needs about 14 GB of memory and 2 GB of disk
set -euo pipefail
cd "$(dirname "$0")/.."
tokens=${1:-1021}
dtype=${2:-f32}
longhaul=${LONGHAUL:-build/default/bin/longhaul}
model=tests/data/models/qwen3_0.6b
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Three ragged prompts, token ids by a linear congruential generator.
awk -v n="$tokens" 'BEGIN {
  split(n " " int(n / 3) " " 7, lengths, " "); x = 12345; printf "["
  for (s = 1; s <= 3; ++s) {
    printf "%s[", (s > 1 ? "," : "")
    for (i = 1; i <= lengths[s]; ++i) { x = (x * 1103515245 + 12345) % 2147483648; printf "%s%d", (i > 1 ? "," : ""), x % 151936 }
    printf "]"
  }
  print "]" }' >"$work/prompts.json"

"$longhaul" make-checkpoint --config "$model" --out "$work/checkpoint" --seed 0 --shard-size 500MB
ls -l "$work/checkpoint" | awk 'NR > 1 { print "  " $5, $9 }'

printf '%-8s %5s %12s %14s %20s %20s\n' weights ranks TTFT_ms tokens_per_s tensor_MiB_per_rank weights_MiB_per_rank
for source in random loaded; do
  for ranks in 1 2 4; do
    args=(--backend cpu --model "$work/checkpoint")
    [ "$source" = random ] && args=(--backend cpu --model "$model" --load-format random --seed 0)
    scripts/mpirun.sh -np "$ranks" "$longhaul" run "${args[@]}" --prompts "$work/prompts.json" --generate 4 \
      --dtype "$dtype" --output "$work/$source-$ranks.json" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    jq -r --arg source "$source" '[$source, .ranks, (.ttft_ms | round), (.prefill_tokens_per_s | round),
      ([.per_rank[].tensor_peak_bytes] | max / 1048576 | round),
      ([.per_rank[].weights_bytes] | max / 1048576 | round)] | @tsv' "$work/$source-$ranks.json" |
      awk '{ printf "%-8s %5d %12d %14d %20d %20d\n", $1, $2, $3, $4, $5, $6 }'
  done
done
if jq -es 'map([.sequences[].generated]) | unique | length == 1' "$work"/*-?.json >/dev/null; then
  echo "the same tokens in all six runs: $(jq -c '[.sequences[].generated]' "$work/random-1.json")"
else
  echo "DIFFERENT TOKENS" >&2
  for f in "$work"/*-?.json; do echo "$(basename "$f") $(jq -c '[.sequences[].generated]' "$f")" >&2; done
  exit 1
fi
