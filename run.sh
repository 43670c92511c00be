#!/usr/bin/env bash
# Makes .venv once, then runs the stream:  bash run.sh [test | torchrun | STAGE] [--data …] [--experiment …] [--set key=value]…
# Works from any folder; paths are relative to the caller's.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() { printf 'error: %s\n' "$*" >&2; exit 4; }

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.14 on PATH; install one (python.org, your package manager, or uv) and run again"
}

set_up() {
    local python log="$root/.venv/install.log"
    [[ ! -L "$root/.venv" ]] || fail "$root/.venv is a link to packages other than requirements.txt asks for; remove the link"
    echo "setting up $root/.venv (once; torch is large, expect a minute or more)"
    if command -v uv >/dev/null 2>&1; then
        uv venv --seed --quiet --clear --python '>=3.11,<3.15' "$root/.venv" || fail "uv could not make $root/.venv"
        uv pip install --quiet --python "$root/.venv/bin/python" -r "$root/requirements.txt" \
            || fail "uv could not install requirements.txt (is the package index reachable?)"
    else
        python="$(find_python)" || exit $?
        "$python" -m venv --clear "$root/.venv" \
            || fail "$python has no venv module; on Debian or Ubuntu: apt install python3-venv python3-pip"
        "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" \
            >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "pip could not install requirements.txt (see $log)"; }
    fi
    cp "$root/requirements.txt" "$root/.venv/installed.txt"
}

is_set_up() { cmp -s "$root/requirements.txt" "$root/.venv/installed.txt"; }

if ! is_set_up; then
    exec 9>"$root/.setup.lock"
    if command -v flock >/dev/null 2>&1 && ! flock --nonblock 9; then
        echo "another run.sh is setting up .venv; waiting for it"
        flock 9
    fi
    is_set_up || set_up
    exec 9>&-
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export MPLCONFIGDIR="${MPLCONFIGDIR:-$root/.venv/matplotlib}"  # else it makes a folder in the home folder
python="$root/.venv/bin/python"
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
    '' | --*)
        if [[ "${1:-}" == --help || ("${1:-}" == --verbose && "${2:-}" == [a-z]*) ]]; then exec "$python" -m src "$@"; fi
        exec "$python" -m src run "$@"
        ;;
    *)
        exec "$python" -m src "$@"
        ;;
esac
