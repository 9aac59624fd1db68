# shellcheck shell=bash
# What the launch scripts share: where things are, how they fail, and the one way train_v2.py is started.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
NAME=$(basename -- "$0" .sh)
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$ROOT/.venv/bin/python
    [[ -x $PYTHON ]] || PYTHON=python3
fi

# One line on stderr, in the words of the other commands.
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

# Replaces this shell by torchrun, so that a signal to it reaches the training. TORCHRUN holds its options.
start_training() {
    local resume=(resume=true) argument
    # A restarted run finds its newest checkpoint this way; one without checkpoints starts at step 0.
    for argument in "$@"; do
        if [[ $argument == resume=* ]]; then resume=(); fi
    done
    exec "$PYTHON" -m torch.distributed.run "${TORCHRUN[@]}" --max-restarts="$RESTARTS" \
        --nproc-per-node="$NPROC_PER_NODE" "$ROOT/train_v2.py" "$@" "${resume[@]}"
}
