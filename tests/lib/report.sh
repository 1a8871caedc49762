# Counts passed, failed and skipped tests of all sections. Sourced by tests/run.
# shellcheck shell=bash disable=SC2154

passed=0 failed=0
failures=() skips=() durations=()

pass() { passed=$((passed + 1)); }
fail() { # NAME
  failed=$((failed + 1))
  failures+=("$1")
}
skip() { # NAME: REASON
  skips+=("$1")
}

# Runs a command as one test. Prints the end of its output only if it fails.
check() { # NAME LIMIT COMMAND...
  local name=$1 limit=$2 log code=0
  shift 2
  log=$logs/${name//[^a-z0-9]/-}.log
  # No standard input, so that a command that asks a question fails at once instead of waiting until its limit.
  timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 </dev/null || code=$?
  if [ $code = 0 ]; then
    pass
    return 0
  fi
  fail "$name$([ $code = 124 ] && echo " (exceeded its limit of $limit)")"
  tail -n 80 "$log"
  return 1
}

# Runs `cargo test` and counts the results of its test programs. A test that prints `skipped: WHAT: WHY` is skipped.
suite() { # NAME LIMIT CARGO-ARGUMENTS...
  local name=$1 limit=$2 code=0 log ok_count failed_count line
  shift 2
  log=$logs/$name.log
  timeout --kill-after=20 "$limit" cargo test --no-fail-fast "$@" >"$log" 2>&1 </dev/null || code=$?
  # Count only the summary lines of the test harness, because a test may print anything.
  read -r ok_count failed_count < <(awk '/^test result: /{ ok += $4; failed += $6 } END { print ok + 0, failed + 0 }' "$log")
  while IFS= read -r line; do
    skip "$name: ${line#*skipped: }"
    # A skipped test returns early, so the harness counts it as passed.
    ok_count=$((ok_count - 1))
  done < <(grep -E '^skipped: ' "$log")
  while IFS= read -r line; do
    skip "$name: $line"
  done < <(sed -n 's/^test \(.*\) \.\.\. ignored,* *\(.*\)$/\1: \2/p' "$log")
  passed=$((passed + ok_count))
  while IFS= read -r line; do fail "$name: $line"; done < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
  if [ "$failed_count" -gt 0 ]; then sed -n '/^failures:$/,/^test result/p' "$log"; fi
  # `timeout` exits with 124, or with 137 if it had to send SIGKILL.
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    fail "$name: exceeded its limit of $limit"
    tail -n 40 "$log"
  elif [ "$code" != 0 ] && [ "$failed_count" = 0 ]; then
    fail "$name: failed before its tests started"
    tail -n 80 "$log"
  fi
}

# Runs a script that prints one line per case: `ok NAME`, `FAILED NAME` or `skipped: NAME: WHY`.
script() { # NAME LIMIT COMMAND...
  local name=$1 limit=$2 code=0 log line has_failed=no
  shift 2
  log=$logs/$name.log
  timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 </dev/null || code=$?
  while IFS= read -r line; do
    case $line in
      "ok "*) pass ;;
      "FAILED "*) fail "${line#FAILED }"; has_failed=yes ;;
      "skipped: "*) skip "${line#skipped: }" ;;
    esac
  done <"$log"
  if [ "$code" != 0 ] && [ "$has_failed" = no ]; then fail "$name: exited with status $code"; fi
  [ "$code" = 0 ] || cat "$log"
}

report() {
  local entry
  printf '\n'
  for entry in "${durations[@]}"; do printf '%s\n' "$entry"; done
  for entry in "${skips[@]}"; do printf 'skipped: %s\n' "$entry"; done
  for entry in "${failures[@]}"; do printf 'failed: %s\n' "$entry"; done
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "${#skips[@]}"
}
