#!/usr/bin/env bash
# A SLURM cluster of one node or several on this machine, for tests, as root:
#
#   tests/cluster/slurm.sh start FOLDER [NODES]     then: export SLURM_CONF=FOLDER/slurm.conf; sinfo
#   tests/cluster/slurm.sh stop FOLDER
#
# Everything is in FOLDER (configuration, a munge key and socket of its own, logs, process ids) and listens on free
# ports, so that it meets no other SLURM of the machine. Debian's packages are installed where they are absent.
# Status 77: it cannot run here, and why.
set -euo pipefail

cannot() {
    echo "$1" >&2
    exit 77
}

install() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
    command -v apt-get >/dev/null || cannot "SLURM is not installed, and there is no apt-get to install it with"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } >"$folder/apt.log" 2>&1 ||
        cannot "apt-get could not install slurm-wlm and munge: $(tail -n 1 "$folder/apt.log")"
}

configure() {
    read -r controller ports <<<"$(python3 - "$nodes" <<'PYTHON'
import socket
import sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(1 + int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
)"
    mkdir -p "$folder/controller" "$folder/munge"
    chmod 700 "$folder/munge"
    dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
    chmod 400 "$folder/munge/key"
    cat >"$SLURM_CONF" <<CONF
ClusterName=daskglm
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/node-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
# No systemd, no control groups: a container will do.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    local number=0
    for port in $ports; do
        number=$((number + 1))
        mkdir -p "$folder/node-n$number"
        echo "NodeName=n$number NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$port CPUs=4 RealMemory=8000" \
            >>"$SLURM_CONF"
    done
}

start() {
    [ "$(id -u)" = 0 ] || cannot "SLURM is started by root, and this is $(id -un)"
    mkdir -p "$folder"
    install
    export SLURM_CONF="$folder/slurm.conf"
    configure
    # --force: the folder's parents may be writable by others, as /tmp is; the key itself is not.
    munged --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >"$folder/munged.out" 2>&1
    slurmctld -f "$SLURM_CONF"
    for number in $(seq "$nodes"); do
        slurmd -N "n$number" -f "$SLURM_CONF"
    done
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --Node --format=%T 2>/dev/null | grep -c idle)" = "$nodes" ] && return
        sleep 0.2
    done
    tail -n 3 "$folder"/slurm*.log >&2
    stop
    cannot "SLURM did not come up within 20 s"
}

stop() {
    SLURM_CONF="$folder/slurm.conf" scancel --user=root 2>/dev/null || true
    for file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munged.pid"; do
        [ -s "$file" ] || continue
        process=$(cat "$file")
        kill "$process" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$process" 2>/dev/null || break
            sleep 0.1
        done
    done
}

[ $# = 2 ] || [ $# = 3 ] || cannot "usage: slurm.sh start|stop FOLDER [NODES]"
folder=$(realpath -m "$2")
nodes=${3:-1}
case $1 in
start) start ;;
stop) stop ;;
*) cannot "usage: slurm.sh start|stop FOLDER [NODES]" ;;
esac
