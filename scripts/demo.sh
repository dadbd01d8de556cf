#!/usr/bin/env bash
# Sets up, builds, and finds five pass keys in ship's logs of 300 to 16,384 bytes: all prompts as one
# batch on 4 CPU ranks, and the same on 1 rank beside it. Exit 1 if an answer is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh default longhaul

longhaul=build/default/bin/longhaul
model=tests/data/needle
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

echo
echo "== a needle in each log (the byte offset, and the text around it)"
jq -r '"\(.id): at \(.needle_at): ...\(.text[([.needle_at - 40, 0] | max):.needle_at + 62] | gsub("\n"; " "))..."' \
  "$model/prompts.jsonl"

for ranks in 4 1; do
  echo
  echo "== mpirun -n $ranks longhaul run --model $model --prompts $model/prompts.jsonl --generate 6 --backend cpu"
  status=0
  scripts/mpirun.sh -np "$ranks" "$longhaul" run --model "$model" \
    --prompts "$model/prompts.jsonl" --generate 6 --backend cpu --output "$results/$ranks.json" || status=$?
  if [ "$status" -gt 1 ]; then
    echo "longhaul: the run on $ranks ranks failed (exit $status)" >&2
    exit "$status"
  fi
done

echo
echo "== the answers side by side"
jq -rn --slurpfile four "$results/4.json" --slurpfile one "$results/1.json" '
  def row: map(tostring | . + " " * ([16 - length, 1] | max)) | join("");
  (["prompt", "bytes", "pass key", "4 ranks", "1 rank"] | row),
  (range($four[0].sequences | length) as $i
   | $four[0].sequences[$i] as $a | $one[0].sequences[$i] as $b
   | def verdict(s): "\(s.text) \(if s.correct then "right" else "WRONG" end)";
     [$a.id, $a.num_tokens, $a.answer, verdict($a), verdict($b)] | row)'
if jq -e -n --slurpfile four "$results/4.json" --slurpfile one "$results/1.json" \
  '[$four[0], $one[0]] | all(.sequences | length > 0 and all(.correct == true))' >/dev/null; then
  echo "== every answer is right, on 4 ranks and on 1"
else
  echo "== AN ANSWER IS WRONG" >&2
  exit 1
fi
