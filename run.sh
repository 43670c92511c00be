#!/usr/bin/env bash
# From a folder of utterances to submission.csv, in four stages; a stage that is done already is skipped:
#   preprocess   reads the utterances into a store of features
#   train        fits a model per fold and predicts the held-out and the test utterances
#   ensemble     blends the predictions of finished runs
#   submit       writes the submission
#
# bash run.sh [OPTION…]         runs all four; --data, --experiment and --set key=value say on what and how
# bash run.sh STAGE [OPTION…]   runs one of them, or a tool beside them; --help lists both
# bash run.sh test [--all]      runs the tests
# bash run.sh torchrun …        starts a stage in several processes
#
# Works from any folder, with paths relative to the caller's. The first call installs the packages into .venv.
set -euo pipefail
unset CDPATH PYTHONHOME

self="${BASH_SOURCE[0]}"
while [[ -L "$self" ]]; do  # readlink -f is not everywhere
    target="$(readlink "$self")"
    [[ "$target" == /* ]] || target="$(dirname "$self")/$target"
    self="$target"
done
root="$(cd -P "$(dirname "$self")" && pwd)"
venv="$root/.venv"
python="$venv/bin/python"
log="$venv/install.log"  # comes before all else, so that an unfinished .venv is known as one of run.sh's
export PYTHONUTF8=1  # file names are UTF-8 whatever the locale says
export PYTHONSAFEPATH=1 PYTHONPATH="$root"  # no module of the caller's is imported, here or in a process started later

is_up_to_date() { cmp -s "$root/requirements.txt" "$venv/installed.txt"; }

finds_torch() { "$python" -c 'import importlib.util as u; raise SystemExit(not u.find_spec("torch"))' 2>/dev/null; }

is_set_up() { is_up_to_date && finds_torch; }

fail() { printf 'error: %s\n' "$*" >&2; exit 4; }

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.14 on PATH; install one (python.org, your package manager, or uv) and run again"
}

clear_venv() {
    [[ ! -L "$venv" ]] || fail "$venv is a link, and what it links to must be replaced; remove the link, and run again"
    [[ -e "$log" || -e "$venv/installed.txt" || -z "$(ls -A "$venv" 2>/dev/null)" ]] \
        || fail "$venv was not made by run.sh; rename or delete it, and run again"
    mkdir -p "$venv"
    : >"$log"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name install.log -exec rm -rf {} +
}

set_up() {
    local base
    if is_up_to_date; then echo "the Python of $venv is gone, or has lost its packages: making it anew"; fi
    clear_venv
    echo "setting up $venv (once; torch is large, expect a minute or more)"
    if command -v uv >/dev/null 2>&1; then
        uv venv --seed --quiet --allow-existing --python '>=3.11,<3.15' "$venv" || fail "uv could not make $venv"
        uv pip install --quiet --python "$python" -r "$root/requirements.txt" \
            || fail "uv could not install requirements.txt (is the package index reachable?)"
    else
        base="$(find_python)" || exit $?
        "$base" -m venv "$venv" \
            || fail "$base has no venv module; on Debian or Ubuntu: apt install python3-venv python3-pip"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" \
            >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "pip could not install requirements.txt (see $log)"; }
    fi
    cp "$root/requirements.txt" "$venv/installed.txt"
}

# Lock file 9, after any other run.sh that has it; without locks, say so and go on. flock itself says nothing where the
# lock is held, and what is wrong otherwise.
lock_setup() {
    local said
    if ! command -v flock >/dev/null 2>&1 || said="$(flock -n 9 2>&1)"; then return; fi
    if [[ -z "$said" ]]; then
        echo "another run.sh is setting up .venv; waiting for it"
        if said="$(flock 9 2>&1)"; then return; fi
    fi
    echo "$root: cannot lock files here (${said##*: }); do not start two run.sh at once while .venv is set up" >&2
}

if ! is_set_up; then
    [[ -w "$root" ]] || fail "$root cannot be written, so .venv cannot be set up there; copy it to a folder of yours"
    exec 9>"$root/.setup.lock"
    lock_setup
    is_set_up || set_up
    exec 9>&-
fi

export MPLCONFIGDIR="${MPLCONFIGDIR:-$venv/matplotlib}"  # else it makes a folder in the home folder
case "${1:-}" in
    test)
        shift
        cd "$root"
        marks="not campaign"
        if [[ "${1:-}" == --all ]]; then
            shift
            marks=""
        fi
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # processes beside each other share the processors
        exec "$python" -m pytest -n auto --maxprocesses 8 --dist worksteal -m "$marks" "$@"
        ;;
    torchrun)
        shift
        exec "$python" -m torch.distributed.run "$@"
        ;;
    *)
        exec "$python" -m src "$@"
        ;;
esac
