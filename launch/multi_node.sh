#!/usr/bin/env bash
# Train on several machines: the same line on each of them, with another NODE_RANK.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 launch/multi_node.sh configs/wf42m_pfc02_r100_16gpus [KEY=VALUE ...]
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 launch/multi_node.sh configs/wf42m_pfc02_r100_16gpus [KEY=VALUE ...]
#
# NNODES          machines
# NODE_RANK       number of this one, from 0
# MASTER_ADDR     name or address of machine 0, as all of them reach it
# MASTER_PORT     a free port there; 29500 when not set
# NPROC_PER_NODE  processes on every machine; one per GPU when not set
# RESTARTS        times a crashed run starts again, on all machines, from its newest checkpoint; 3 when not set
# JOIN_TIMEOUT_S  seconds a machine waits for the others; 900 when not set
#
# The run folder must be one that all machines share. resume=true is added: the same lines
# again continue a run that stopped. Choose another output for a new run.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

need_config "$@"
MASTER_PORT=${MASTER_PORT:-29500}
RESTARTS=${RESTARTS:-3}
JOIN_TIMEOUT_S=${JOIN_TIMEOUT_S:-900}
check_number NNODES 1 10000
check_number NODE_RANK 0 $((NNODES - 1))
check_number MASTER_PORT 1024 65535
check_number RESTARTS 0 1000
check_number JOIN_TIMEOUT_S 1 86400
[[ -n ${MASTER_ADDR:-} ]] || fail "MASTER_ADDR: not set; expected the name or address of node 0; set MASTER_ADDR=..."
address=$("$PYTHON" "$ROOT/launch/check_address.py" "$MASTER_ADDR" "$MASTER_PORT" "$NODE_RANK") || fail "$address"
count_processes
printf '%s: NODE_RANK=%s of NNODES=%s, MASTER_ADDR=%s, MASTER_PORT=%s, NPROC_PER_NODE=%s, RESTARTS=%s: %s\n' \
    "$NAME" "$NODE_RANK" "$NNODES" "$MASTER_ADDR" "$MASTER_PORT" "$NPROC_PER_NODE" "$RESTARTS" "$*" >&2

# The c10d rendezvous, since a restart must bring the processes of all nodes back together; the static one cannot.
is_host=$((NODE_RANK == 0))
# Every start gets its own store. In a shared one each agent numbers the starts by its own count of failures, and
# a node that lost its processes because another one failed counts one less: they would never meet again.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
TORCHRUN=(
    --nnodes="$NNODES" --rdzv-id="$MASTER_ADDR-$MASTER_PORT" --rdzv-backend=c10d
    --rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT" --local-addr="$address"
    --rdzv-conf="is_host=$is_host,join_timeout=$JOIN_TIMEOUT_S,read_timeout=$JOIN_TIMEOUT_S"
)
start_training "$@"
