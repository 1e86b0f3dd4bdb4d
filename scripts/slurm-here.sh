#!/usr/bin/env bash
# A private Slurm of two virtual nodes, n1 and n2 (or more), on this machine, for as long as a command runs:
#
#   scripts/slurm-here.sh srun -N2 -n4 --mpi=pmix hostname
#   scripts/slurm-here.sh bash                                 to look around
#
# Real slurmctld, two slurmd, munge; all of it in a folder of its own under TMPDIR, on free ports, with a key of its own:
# nothing of a Slurm that the machine may have is touched. At the end, however it comes, the daemons are stopped, jobs
# with them, and the folder is removed. Needs root, and Debian's slurm-wlm and munge (scripts/setup.sh with TESTS=1).
#   CPUS=160 cores of each virtual node: all are the machine's own, so that they may be more than it has. So many that two of the
#            largest jobs of README.md and docs/jobs.md run at a time
#   MORE=0   nodes besides, m1 and on (9 at most: PMIx orders them by name), in a partition `more`
#   GPUS=0   GPUs that Slurm believes each node to have (--gres=gpu:N); nothing that computes is behind them
set -euo pipefail

usage() { sed -n '2,13s/^# \{0,1\}//p' "$0"; }
case "${1:-}" in "") usage >&2 && exit 2 ;; -h | --help) usage && exit 0 ;; esac
[ "$(id -u)" -eq 0 ] || { echo "slurm-here: expected to be root, which slurmd needs" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin
for program in slurmctld slurmd munged sbatch; do
    command -v $program >/dev/null || { echo "slurm-here: $program is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done

names=(n1 n2) # of the nodes
for ((i = 1; i <= ${MORE:-0}; i++)); do names+=("m$i"); done
here=$(mktemp -d "${TMPDIR:-/tmp}/slurm-here.XXXXXX")
chmod 755 "$here" # munge refuses a socket that others cannot reach
host=$(hostname -s)
memory=$(mktemp -d "/dev/shm/slurm-here.XXXXXX")
daemons=()

# What belongs to this cluster, jobs and daemons and who uses them: its environment names our folder.
ours() {
    env -u SLURM_CONF grep -slzxF "SLURM_CONF=$here/slurm.conf" /proc/[0-9]*/environ | cut -d/ -f3
}
stop() {
    trap '' INT TERM HUP
    timeout 5 scancel --full --signal=KILL --partition=debug 2>/dev/null || true
    for pid in "${daemons[@]}" $(ours); do kill "$pid" 2>/dev/null || true; done
    for _ in $(seq 30); do [ -n "$(ours)" ] || break; sleep 0.1; done
    for pid in "${daemons[@]}" $(ours); do kill -KILL "$pid" 2>/dev/null || true; done
    rm -rf "$here" "$memory"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

port() { # one that nobody listens on
    local port
    while port=$((20000 + RANDOM % 12000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo $port
}
started() { # name, command…: a daemon in the foreground, ended by its number
    "${@:2}" >"$here/log/$1.out" 2>&1 </dev/null &
    daemons+=($!)
    disown # the shell has nothing to say when they are ended
}

mkdir -p "$here"/{state,log}
for name in "${names[@]}"; do mkdir -p "$here/spool/$name" "$here/tmp/$name" "$memory/$name"; done
# Open MPI names its shared memory by host and local rank: the two nodes, one host here, would write into each other's.
cat >"$here/prolog" <<'PROLOG'
#!/bin/sh
echo "export OMPI_MCA_btl_vader_backing_directory=@memory@/$SLURMD_NODENAME"
PROLOG
sed -i "s|@memory@|$memory|" "$here/prolog"
chmod 755 "$here/prolog"
head -c 1024 /dev/urandom >"$here/munge.key"
chmod 400 "$here/munge.key"
started munged munged --foreground --force --socket="$here/munge" --key-file="$here/munge.key" --pid-file="$here/munge.pid" \
    --log-file="$here/log/munged.log" --seed-file="$here/munge.seed"

cat >"$here/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credentials have run out: two minutes, were it not said.
AuthInfo=socket=$here/munge,cred_expire=10
CryptoType=crypto/munge
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
# Binds nothing, for the nodes' cores are made up. (task/none is the same plugin, but srun complains of it at each --cpu-bind.)
TaskPlugin=none
TaskProlog=$here/prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool/%n
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.%n.pid
SlurmctldLogFile=$here/log/slurmctld.log
SlurmdLogFile=$here/log/slurmd.%n.log
# Of each node its own, or PMIx of one meets the files of the other.
TmpFS=$here/tmp/%n
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=bf_interval=5,sched_interval=5
GresTypes=gpu
$(for name in "${names[@]}"; do
    echo "NodeName=$name NodeHostname=$host NodeAddr=127.0.0.1 Port=$(port) CPUs=${CPUS:-160} RealMemory=1000 Gres=gpu:${GPUS:-0}"
done)
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
[ "${MORE:-0}" -eq 0 ] || echo "PartitionName=more Nodes=m[1-$MORE] MaxTime=INFINITE State=UP" >>"$here/slurm.conf"
# slurmd counts only GPUs that have a file.
for ((i = 0; i < ${GPUS:-0}; i++)); do
    touch "$here/gpu$i"
    echo "Name=gpu File=$here/gpu$i" >>"$here/gres.conf"
done
export SLURM_CONF=$here/slurm.conf
for _ in $(seq 100); do [ -S "$here/munge" ] && break; sleep 0.1; done

started slurmctld slurmctld -D
for name in "${names[@]}"; do started "$name" slurmd -D -N "$name"; done
up() { [ "$(sinfo --noheader --format=%D --states=idle 2>/dev/null | awk '{ n += $1 } END { print n + 0 }')" -eq ${#names[@]} ]; }
for _ in $(seq 300); do
    ! up || break
    sleep 0.1
done
if ! up; then
    echo "slurm-here: the nodes did not come up within 30 s" >&2
    tail -n 5 "$here"/log/* >&2
    exit 1
fi

# Not exec: the trap must run. In the background, so that a signal to this script is not kept waiting.
"$@" <&0 &
command=$!
trap 'kill -TERM $command 2>/dev/null; exit 143' TERM HUP
trap 'kill -TERM $command 2>/dev/null; exit 130' INT
wait $command
