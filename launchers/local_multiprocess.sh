#!/bin/sh
# Several processes of one run on this machine, each with some CPU devices: local_multiprocess.sh PROCESSES DEVICES COMMAND...
#
#   launchers/local_multiprocess.sh 2 4 jaxreason train --config=quickstart --platform=cpu --config.mesh.data=8
#
# SIGTERM is passed on: the run saves and ends with status 75. The status is that of the first process that failed.
set -u
processes=$1 devices=$2
shift 2
export JAX_NUM_CPU_DEVICES="$devices" JAX_COORDINATOR_ADDRESS="127.0.0.1:${PORT:-12355}" JAX_NUM_PROCESSES="$processes"
pids=
process=0
while [ "$process" -lt "$processes" ]; do
  JAX_PROCESS_ID=$process "$@" &
  pids="$pids $!"
  process=$((process + 1))
done
# shellcheck disable=SC2086 # one word for each process
trap 'kill -TERM $pids 2>/dev/null' TERM INT
status=0
for pid in $pids; do
  wait "$pid" || { one=$?; while kill -0 "$pid" 2>/dev/null; do wait "$pid"; one=$?; done; [ "$status" -ne 0 ] || status=$one; }
done
exit "$status"
