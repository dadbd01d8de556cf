#!/usr/bin/env bash
# mpirun as the tests use it: works as root in a container, and with more ranks than cores.
# usage: scripts/mpirun.sh -np N PROGRAM [ARG ...]
set -eu
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec mpirun --oversubscribe --bind-to none "$@"
