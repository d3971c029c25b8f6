#!/bin/sh
# A run on Cloud TPU VMs, one slice or several, by way of a queued resource:
#
#   launchers/tpu_vm.sh create NAME ZONE TYPE [SLICES]     asks for SLICES slices of TYPE, such as v5litepod-16 (SPOT=1: spot)
#   launchers/tpu_vm.sh install NAME ZONE                  jaxreason and JAX for TPUs on every host, in ~/jaxreason
#   launchers/tpu_vm.sh train NAME ZONE ARGUMENTS...       jaxreason train ARGUMENTS on every host, until it is done
#   launchers/tpu_vm.sh stop NAME ZONE                     SIGTERM to every host: the run saves and `train` goes on with it
#   launchers/tpu_vm.sh delete NAME ZONE                   gives the slices back, running or not
#
# RUNTIME names the hosts' image, JAXREASON what pip installs. What ended with 70 (stalled) or 75 (saved) is started again, up to
# RESTARTS times. The working directory must lie where all hosts see it.
set -eu
usage() { sed -n '3,8s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
task=$1 name=$2 zone=$3
shift 3
hosts() { gcloud compute tpus queued-resources ssh "$name" --zone="$zone" --node=all --worker=all --command="$1"; }
# Each argument in single quotes, for the shells of the hosts.
quoted() { for one in "$@"; do printf " '%s'" "$(printf %s "$one" | sed "s/'/'\\\\''/g")"; done; }
case $task in
  create)
    [ $# -ge 1 ] || usage
    slices=${2:-1}
    if [ "$slices" -gt 1 ]; then set -- "$1" --node-prefix="$name" --node-count="$slices"; else set -- "$1" --node-id="$name"; fi
    type=$1
    shift
    [ -z "${SPOT:-}" ] || set -- "$@" --spot
    exec gcloud compute tpus queued-resources create "$name" --zone="$zone" --accelerator-type="$type" \
      --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" "$@" ;;
  install)
    hosts "python3 -m venv jaxreason && jaxreason/bin/pip install -q 'jax[tpu]'$(quoted "${JAXREASON:-jaxreason}")" ;;
  train)
    left=${RESTARTS:-100}
    while :; do
      status=0
      hosts "jaxreason/bin/jaxreason train$(quoted "$@")" || status=$?
      case $status in 70 | 75) ;; *) exit "$status" ;; esac
      [ "$left" -gt 0 ] || exit "$status"
      left=$((left - 1))
      echo "tpu_vm.sh: the run ended with $status and is started again" >&2
    done ;;
  stop) hosts "pkill -TERM -f '[j]axreason train'" ;;
  delete) exec gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet ;;
  *) usage ;;
esac
