# shellcheck shell=bash
# What the launch scripts share: where things are, how they fail, and the only place that starts train_v2.py.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
NAME=$(basename -- "$0" .sh)
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$ROOT/.venv/bin/python
    [[ -x $PYTHON ]] || PYTHON=python3
fi

# One line on stderr, in the form of the other commands.
fail() {
    printf '%s: error: %s\n' "$NAME" "$*" >&2
    exit 1
}

# check_number NAME LOW HIGH: the variable NAME holds a whole number from LOW to HIGH.
check_number() {
    local value=${!1:-}
    [[ -n $value ]] || fail "$1: not set; expected a whole number from $2 to $3; set $1=... before the command"
    [[ $value =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "$1: found '$value', expected a whole number from $2 to $3"
    ((value >= $2 && value <= $3)) || fail "$1: found $value, expected a whole number from $2 to $3"
}

# need_config ARGUMENTS: the first of them names a config.
need_config() {
    [[ $# -gt 0 && $1 != -* && $1 != *=* ]] ||
        fail "no config named; expected $NAME.sh CONFIG [KEY=VALUE ...], for example configs/ms1mv3_r50"
}

# Processes of this node: as stated, else one per GPU, else one.
count_processes() {
    if [[ -z ${NPROC_PER_NODE:-} ]]; then
        NPROC_PER_NODE=$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))') ||
            fail "PYTHON: '$PYTHON' cannot import torch; set PYTHON=... to the one that can"
    fi
    check_number NPROC_PER_NODE 1 1024
}

# Runs torchrun and passes signals to it: SIGTERM and SIGINT to torchrun itself, SIGUSR1 (save and continue) to the
# processes that it started, since the signal would end torchrun. TORCHRUN holds its options.
start_training() {
    local resume=(resume=true) argument child status signalled exposed
    exposed=$("$PYTHON" "$ROOT/launch/warn_public.py" "${MASTER_ADDR:-}") || exposed=''
    [[ -z $exposed ]] || printf '%s: warning: %s\n' "$NAME" "$exposed" >&2
    # How long torchrun lets processes save after a SIGTERM; torch before 2.13 always takes 30 seconds.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
    # A restarted run finds its newest checkpoint this way; one without checkpoints starts at step 0.
    for argument in "$@"; do
        if [[ $argument == resume=* ]]; then resume=(); fi
    done
    (
        trap '' USR1
        exec "$PYTHON" -m torch.distributed.run "${TORCHRUN[@]}" --max-restarts="$RESTARTS" \
            --nproc-per-node="$NPROC_PER_NODE" "$ROOT/train_v2.py" "$@" "${resume[@]}"
    ) &
    child=$!
    trap 'signalled=1; kill -TERM "$child" 2>/dev/null || true' TERM
    trap 'signalled=1; kill -INT "$child" 2>/dev/null || true' INT
    trap 'signalled=1; pkill -USR1 -P "$child" || true' USR1
    signalled=1
    while [[ -n $signalled ]]; do # a signal ends the waiting, not the training
        signalled='' status=0
        wait "$child" || status=$?
    done
    exit "$status"
}
