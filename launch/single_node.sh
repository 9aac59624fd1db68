#!/usr/bin/env bash
# Train on the GPUs of this machine, or on its CPU when it has none.
#
#   launch/single_node.sh configs/ms1mv3_r50 [KEY=VALUE ...]
#   NPROC_PER_NODE=4 launch/single_node.sh configs/ms1mv3_r50
#
# NPROC_PER_NODE  processes; one per GPU when not set
# RESTARTS        times a crashed run starts again from its newest checkpoint; 3 when not set
#
# resume=true is added: the same line again continues a run that stopped. Choose another output for a new run.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

need_config "$@"
RESTARTS=${RESTARTS:-3}
check_number RESTARTS 0 1000
count_processes
printf '%s: %s processes on this node, up to %s restarts: %s\n' "$NAME" "$NPROC_PER_NODE" "$RESTARTS" "$*" >&2
TORCHRUN=(--standalone)
start_training "$@"
