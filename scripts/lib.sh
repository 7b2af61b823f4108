# shellcheck shell=bash disable=SC2034
# What the scripts share; sourced, never run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv/bin
jobs=$(nproc)
program=$root/build/release/bin/dequant
passed=0
failed=0

say() { printf 'dequant: %s\n' "$*"; }
die() {
  printf 'dequant: %s\n' "$*" >&2
  exit 1
}

# usage STATUS: prints the comment at the head of the script and ends it.
usage() {
  sed -n '2,/^source/{/^#/s/^# \?//p}' "$0"
  exit "$1"
}

# build PRESET [TARGET]: configures and builds; ninja shows its progress on a
# terminal, elsewhere only a failure is shown.
build() {
  local preset=$1 log=$root/build/$1.log
  mkdir -p "$root/build"
  local command=(cmake --build --preset "$preset" --parallel "$jobs")
  [ $# -eq 1 ] || command+=(--target "$2")
  (cd "$root" && cmake --preset "$preset") >"$log" 2>&1 || {
    cat "$log" >&2
    return 1
  }
  if [ -t 1 ]; then
    (cd "$root" && "${command[@]}")
  else
    (cd "$root" && "${command[@]}") >"$log" 2>&1 || {
      tail -n 60 "$log" >&2
      return 1
    }
  fi
}

# check NAME COMMAND...: runs it, says how it went, counts. What it prints is
# shown only if it failed; of a success, the last line that begins "dequant:" or "ok:".
check() {
  local name=$1 start=$SECONDS log detail
  shift
  log=$(mktemp)
  printf '%-42s ' "$name"
  if "$@" >"$log" 2>&1 </dev/null; then
    passed=$((passed + 1))
    detail=$(sed -nE 's/^(dequant|ok): //p' "$log" | tail -n 1)
    printf 'ok %4d s  %s\n' $((SECONDS - start)) "$detail"
  else
    failed=$((failed + 1))
    printf 'FAILED after %d s\n' $((SECONDS - start))
    tail -n 60 "$log" | sed 's/^/    /'
  fi
  rm -f "$log"
}

# summary: the closing line; its status is that of the whole.
summary() {
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ]
}
