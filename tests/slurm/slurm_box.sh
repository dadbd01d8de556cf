#!/usr/bin/env bash
# A real Slurm of N nodes on this host, for the time of one command.
# usage: slurm_box.sh NODES CPUS COMMAND [ARG ...]      CPUS: declared for each node
# The command finds sbatch and the others in its PATH, and a throw-away folder in BOX.
# Exit: the command's; 77 with one line where such a box cannot be had.
#
# Everything lives in namespaces of its own (processes, network, mounts, host names), so that a real
# Slurm on this host, its ports, its munge socket and /etc are not touched, and nothing outlives it.
# LONGHAUL_SLURM_ROOT: a folder where the packages were unpacked with `dpkg -x` instead of installed.
set -euo pipefail

skip() {
  echo "skipped: $1"
  exit 77
}

unpacked=${LONGHAUL_SLURM_ROOT:-}
PATH=$unpacked/usr/sbin:$unpacked/usr/bin:$PATH:/usr/sbin:/sbin

if [ "${BOX_STAGE:-}" = "" ]; then
  missing=()
  for program in slurmctld slurmd slurmstepd munged sbatch srun scancel squeue sinfo scontrol; do
    # An unpacked Debian package lacks the links that an installed one has.
    [ -n "$unpacked" ] && [ -e "$unpacked/usr/sbin/$program-wlm" ] ||
      command -v "$program" >/dev/null || missing+=("$program")
  done
  [ ${#missing[@]} = 0 ] || skip "a Slurm box needs ${missing[*]} (Debian, Ubuntu: apt-get install \
--no-install-recommends slurmctld slurmd slurm-client munge)"
  for program in mpirun unshare nsenter mount ip; do
    command -v "$program" >/dev/null || skip "a Slurm box needs the program $program"
  done
  [ "$(id -u)" = 0 ] || skip "a Slurm box needs root: slurmd starts jobs as their users"
  spaces=(--pid --fork --kill-child=KILL --mount-proc --mount --net --uts --ipc)
  unshare "${spaces[@]}" mount -t tmpfs none /dev/shm 2>/dev/null ||
    skip "a Slurm box needs leave to make namespaces and to mount in them (CAP_SYS_ADMIN)"

  # Of a job or launcher around us nothing may shine through.
  while IFS= read -r name; do
    unset "$name"
  done < <(compgen -e | grep -E '^(SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SINFO|SCANCEL|PMI|OMPI|PRTE)' || true)

  BOX=$(mktemp -d /tmp/longhaul-slurm.XXXXXX)  # short: the paths of sockets are
  chmod 755 "$BOX"
  export BOX
  # Killed processes may still write for a moment.
  trap 'for _ in $(seq 50); do rm -rf --one-file-system "$BOX" 2>/dev/null && break; sleep 0.1; done' EXIT
  trap 'kill -KILL "$inside" 2>/dev/null; wait "$inside" || true; exit 130' INT TERM
  # The first process of the namespace takes all others with it when it ends.
  BOX_STAGE=inside unshare "${spaces[@]}" "$0" "$@" &
  inside=$!
  status=0
  wait "$inside" || status=$?
  exit "$status"
fi

# ---- inside --------------------------------------------------------------------------------------
trap 'exit 130' INT TERM
nodes=$1 cpus=$2
shift 2
unset BOX_STAGE

hostname box
ip link set lo up
# Slurm looks names up with AI_ADDRCONFIG, and Open MPI passes loopback over: both want an address
# that is not 127.x.
ip link add net0 type veth peer name net1 2>/dev/null || ip link add net0 type dummy 2>/dev/null ||
  skip "a Slurm box needs a kernel with veth or dummy network devices"
ip link set net1 up 2>/dev/null || true
ip addr add 10.98.7.1/24 dev net0
ip link set net0 up
{
  echo "127.0.0.1 localhost"
  echo "10.98.7.1 box"
  for i in $(seq "$nodes"); do echo "10.98.7.1 n$i"; done
} >"$BOX/hosts"
mount --bind "$BOX/hosts" /etc/hosts

mkdir -p "$BOX/bin" "$BOX/state" "$BOX/log" "$BOX/run" "$BOX/tmp"
mkdir -m 700 "$BOX/munge"
mkdir -m 755 "$BOX/socket"
: >"$BOX/plugstack.conf"
plugins=
if [ -n "$unpacked" ]; then
  # The names matter: slurmd and slurmctld look at theirs.
  for program in slurmctld slurmd slurmstepd; do
    ln -s "$unpacked/usr/sbin/$program-wlm" "$BOX/bin/$program"
  done
  plugins=$(dirname "$(find "$unpacked" -name auth_munge.so | head -n 1)")
  export LD_LIBRARY_PATH=$plugins${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
export PATH=$BOX/bin:$PATH SLURM_CONF=$BOX/slurm.conf TMPDIR=$BOX/tmp

cat >"$SLURM_CONF" <<CONF
ClusterName=longhaul
SlurmctldHost=box(10.98.7.1)
SlurmctldPort=6817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$BOX/socket/munge
${plugins:+PluginDir=$plugins}
PlugStackConfig=$BOX/plugstack.conf
# linuxproc: the host's control groups are not ours to write.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
# A folder for each node: PMIx of two nodes would meet in /tmp.
TmpFS=$BOX/tmp.%n
MailProg=/bin/true
ReturnToService=2
SlurmctldPidFile=$BOX/run/slurmctld.pid
SlurmdPidFile=$BOX/run/slurmd.%n.pid
SlurmdSpoolDir=$BOX/spool.%n
StateSaveLocation=$BOX/state
SlurmctldLogFile=$BOX/log/slurmctld.log
SlurmdLogFile=$BOX/log/slurmd.%n.log
KillWait=5
PropagateResourceLimits=NONE
$(for i in $(seq "$nodes"); do
  echo "NodeName=n$i NodeHostname=n$i NodeAddr=10.98.7.1 Port=$((17000 + i)) CPUs=$cpus RealMemory=1000 State=UNKNOWN"
done)
PartitionName=p Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF

fail() {
  echo "slurm_box.sh: $1" >&2
  tail -n 20 "$BOX"/log/* >&2 2>/dev/null || true
  exit 1
}

(umask 077 && head -c 128 /dev/urandom >"$BOX/munge/key")
munged --key-file="$BOX/munge/key" --socket="$BOX/socket/munge" --pid-file="$BOX/run/munged.pid" \
  --log-file="$BOX/log/munged.log" --seed-file="$BOX/munge/seed" --num-threads=2 ||
  fail "munged does not start"
slurmctld -i -f "$SLURM_CONF" || fail "slurmctld does not start"
for i in $(seq "$nodes"); do
  mkdir "$BOX/spool.n$i" "$BOX/tmp.n$i"
  # A host name and a /dev/shm for each node: Open MPI names its segments by host.
  # shellcheck disable=SC2016  # expanded by the inner shell
  unshare --uts --mount sh -c 'hostname "$0" && mount -t tmpfs -o size=1g shm /dev/shm &&
    exec slurmd -N "$0" -f "$SLURM_CONF" -d "$(command -v slurmstepd)"' "n$i" ||
    fail "slurmd of n$i does not start"
done
ready=0
until [ "$SECONDS" -ge 20 ]; do
  ready=$(timeout 5 sinfo -h -N -t idle -o %T 2>/dev/null | grep -c '^idle$' || true)
  [ "$ready" = "$nodes" ] && break
  sleep 0.1
done
[ "$ready" = "$nodes" ] || fail "$ready of $nodes nodes are idle after 20 s"

status=0
"$@" || status=$?
exit "$status"
