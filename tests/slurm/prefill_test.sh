#!/usr/bin/env bash
# slurm/prefill.sbatch on the Slurm that slurm_box.sh started: srun and mpirun, 1 and 2 nodes, ranks
# that fail, signals, cancelled jobs. usage: slurm_box.sh 2 4 prefill_test.sh LONGHAUL
set -Eeuo pipefail
cd "$(dirname "$0")/../.."
LONGHAUL=$(realpath "$1")
model=$PWD/tests/data/needle
work="$BOX/w w"  # with a space: paths have them
mkdir "$work"
head -n 2 "$model/prompts.jsonl" >"$work/prompts.jsonl"  # the two shortest
export LONGHAUL PROMPTS="$work/prompts.jsonl" SECRET_TOKEN=hush
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trap 'echo "FAILED: $name: line $LINENO ended with $?"' ERR
failures=0 name="" id="" out="" RESULTS=""

check() {  # check WHAT COMMAND...: the command must succeed
  local what=$1
  shift
  if ! "$@" >/dev/null; then
    echo "FAILED: $name: $what"
    sed 's/^/    /' "$out" | head -n 30
    failures=$((failures + 1))
  fi
}
absent() { ! grep -q -e "$1" "$2"; }
times() { [ "$(grep -c -e "$1" "$3")" = "$2" ]; }

# submit NAME [SBATCH OPTION ...] [-- ARGUMENT OF RUN ...]
submit() {
  name=$1
  shift
  local options=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  out="$work/$name.out"
  id=$(RESULTS=${RESULTS:-$work/$name} sbatch --parsable --time=2 --output="$out" "${options[@]}" \
    slurm/prefill.sbatch "$@")
}
gone() {  # from the queue; a controller that is too busy to answer has not said so
  local jobs
  jobs=$(squeue -h -j "$id" 2>/dev/null) && [ -z "$jobs" ]
}
finish() {  # finish STATE CODE:SIGNAL|"*"
  local until=$((SECONDS + 40)) is=""
  until gone || [ "$SECONDS" -ge "$until" ]; do sleep 0.1; done
  is=$(scontrol show job "$id" | grep -oE '\<(JobState|ExitCode)=[^ ]*' | cut -d= -f2 | xargs)
  touch "$out"
  check "ended as '$is', not '$1 $2'" [ "${is/#CANCELLED */CANCELLED *}" = "$1 $2" ]
  check "left processes behind" nothing_left
  echo "$name: $is, ${SECONDS} s"
}
nothing_left() {
  local _
  for _ in $(seq 20); do
    pgrep -f "^($LONGHAUL run|orted|mpirun|srun) " || return 0
    sleep 0.1
  done
  return 1
}
wait_for() {  # wait_for TEXT: in the job's output
  local _
  for _ in $(seq 200); do
    grep -q -e "$1" "$out" 2>/dev/null && return 0
    sleep 0.1
  done
  check "did not come to print '$1'" false
}
no_result() {
  check "left a result behind" absent . <(find "$work/$name" ! -name environment.txt -type f)
}

# ---- good runs -----------------------------------------------------------------------------------
for launch in srun mpirun; do
  for nodes in 1 2; do
    LAUNCH=$launch submit "$launch.$nodes" --nodes=$nodes --ntasks-per-node=$((4 / nodes))
    finish COMPLETED 0:0
    environment="$work/$name/environment.txt" result="$work/$name/result.json"
    check "ranks" grep -q "on 4 ranks x 1 thread" "$out"
    check "answers" times ' right$' 2 "$out"
    check "result.json" grep -q '"ranks": *4' "$result"
    check "command" grep -q "^command: $launch .*longhaul run .*w\\\\ w/prompts.jsonl" "$environment"
    check "git" grep -qE '^git: [0-9a-f]{40}(-dirty)?$|^git: unknown$' "$environment"
    check "nodes" grep -qx "SLURM_JOB_NUM_NODES=$nodes" "$environment"
    check "a secret" absent hush "$environment"
  done
done

# ---- arguments, threads, an existing result ---------------------------------------------------------
submit threads --ntasks-per-node=1 --cpus-per-task=2 -- --dump "$work/du mp" --dump-filter 'final*'
finish COMPLETED 0:0
check "threads" grep -q "on 1 rank x 2 threads" "$out"
check "dump" [ -n "$(find "$work/du mp" -name '*.h5')" ]

before=$(cat "$work/srun.1/"*)
RESULTS="$work/srun.1" submit exists
finish FAILED 2:0
check "words" times "^longhaul: .*/srun.1/result.json exists" 1 "$out"
check "the old result changed" [ "$before" = "$(cat "$work/srun.1/"*)" ]

LAUNCH=mpiexec submit launch
finish FAILED 2:0
check "words" grep -q "^longhaul: LAUNCH is 'mpiexec'" "$out"

LONGHAUL=$work/none submit program
finish FAILED 2:0
check "words" grep -q "^longhaul: no program .*/none" "$out"

# ---- srun without PMI: one line, and no rank works alone ---------------------------------------------
name=pmi out="$work/pmi.out"
status=0
srun --mpi=none -N2 --ntasks-per-node=2 "$LONGHAUL" run --model "$model" --prompts "$PROMPTS" \
  --output "$work/pmi.json" >"$out" 2>&1 || status=$?
check "exit $status" [ "$status" = 2 ]
check "one line" times "^longhaul: Slurm has 4 tasks here but MPI sees 1 rank" 1 "$out"
check "a result" [ ! -e "$work/pmi.json" ]

# ---- a rank that dies, one that hangs, a stop before the limit, a cancelled job ----------------------
for launch in srun mpirun; do
  export LAUNCH=$launch
  LONGHAUL_FAULT=kill:rank=3:layer=1 submit "kill.$launch" -N2 --ntasks-per-node=2
  finish FAILED 137:0
  no_result
  LONGHAUL_FAULT=hang:rank=3:layer=1 submit "hang.$launch" -N2 --ntasks-per-node=2 -- --timeout 2
  finish FAILED 75:0
  check "names the rank" times "^longhaul: rank 3 (host n2)" 1 "$out"
  no_result
  # What Slurm does before the limit, but now (--signal=B:USR1@60 needs a minute).
  submit "stop.$launch" -N2 --ntasks-per-node=2 -- --generate 30000
  wait_for "attention backends"
  scancel --batch --signal=USR1 "$id"
  finish FAILED 124:0
  check "words" grep -q "stopped by SIGUSR1" "$out"
  no_result
  submit "cancel.$launch" -N2 --ntasks-per-node=2 -- --generate 30000
  wait_for "attention backends"
  scancel "$id"
  finish CANCELLED "*"  # the code is that of whoever fell first
  no_result
done
unset LAUNCH

check "shared memory left" absent . <(for pid in $(pgrep -x slurmd); do
  find "/proc/$pid/root/dev/shm" -type f -printf '%p\n'; done)
[ "$failures" = 0 ] && echo "all good"
[ "$failures" = 0 ]
