#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, for `make test-slurm`, where Debian's packages can be had.
#   cluster.sh start FOLDER    installs what is missing, starts it, as root, and prints the path of its slurm.conf; exit
#                              status 3: this machine can have none
#   cluster.sh stop FOLDER
set -euo pipefail
verb=${1:?start or stop} folder=$(realpath -m "${2:?a folder for state and logs}")
export SLURM_CONF=$folder/slurm.conf

if [ "$verb" = stop ]; then
  scancel --user=root --quiet || true
  pids=$(cat "$folder"/*.pid)
  kill $pids || true
  for _ in $(seq 50); do kill -0 $pids 2> /dev/null || exit 0; sleep 0.2; done
  kill -KILL $pids 2> /dev/null || true  # a slurmd that waits for a job's process for ever
  exit 0
fi

if ! { command -v slurmctld && command -v slurmd && command -v srun && command -v munged; } > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  packages() { timeout 300 apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=20 "$@" < /dev/null >> "$folder.apt.log" 2>&1; }
  packages install --yes --no-install-recommends slurm-wlm munge ||
    { packages update && packages install --yes --no-install-recommends slurm-wlm munge; } || exit 3
fi
mkdir -p "$folder"/{state,spool-node1,spool-node2}
install -d -o munge -g munge /run/munge /var/log/munge /var/lib/munge
[ -e /etc/munge/munge.key ] || { head --bytes 1024 /dev/urandom > /etc/munge/munge.key; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
pgrep --exact munged > /dev/null || runuser --user munge -- /usr/sbin/munged || exit 3
host=$(hostname --short)
# Requeued jobs wait until their credential expires, 120 s by default. Cores are shared, so that a busy machine runs all.
cat > "$SLURM_CONF" << CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=2
KillWait=15
JobRequeue=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
SlurmctldPort=16817
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node1 NodeHostname=$host Port=17001 CPUs=$(nproc)
NodeName=node2 NodeHostname=$host Port=17002 CPUs=$(nproc)
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
slurmctld -c || exit 3
for node in node1 node2; do slurmd -N "$node" || exit 3; done
for _ in $(seq 120); do [ "$(sinfo --noheader --format=%t)" = idle ] && break; sleep 0.5; done
sinfo --noheader > /dev/null || { tail "$folder"/*.log >&2; exit 3; }
echo "$SLURM_CONF"
