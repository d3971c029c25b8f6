#!/usr/bin/env bash
# One process on this machine: any jaxreason command line behind the settings that cost nothing and help.
#   launchers/local.sh train --config=quickstart --workdir=runs/q
set -euo pipefail
# glibc would return large freed buffers to the kernel and fault them in again at every step.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
# Compiled programs are kept between runs.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/jaxreason/xla}"
exec jaxreason "$@"
