# Counting: what passed, failed and was skipped, over all sections. Sourced by tests/run.
# shellcheck shell=bash disable=SC2154

passed=0 failed=0
failures=() skips=() durations=()

pass() { passed=$((passed + 1)); }
miss() { # NAME
  failed=$((failed + 1))
  failures+=("$1")
}
skip() { # NAME: REASON
  skips+=("$1")
}

# Runs one check that either holds or does not; its output is shown only when it does not.
check() { # NAME LIMIT COMMAND...
  local name=$1 limit=$2 log code=0
  shift 2
  log=$logs/${name//[^a-z0-9]/-}.log
  timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 </dev/null || code=$?
  if [ $code = 0 ]; then
    pass
    return 0
  fi
  miss "$name$([ $code = 124 ] && echo " (over its limit of $limit)")"
  tail -n 80 "$log"
  return 1
}

# Runs `cargo test` and counts what its harnesses say. A test that prints `skipped: WHAT: WHY` counts as skipped.
suite() { # NAME LIMIT CARGO-ARGUMENTS...
  local name=$1 limit=$2 code=0 log ok bad line
  shift 2
  log=$logs/$name.log
  timeout --kill-after=20 "$limit" cargo test --no-fail-fast "$@" >"$log" 2>&1 </dev/null || code=$?
  # Nothing is trusted but the harness's own lines: a test may print anything.
  read -r ok bad < <(awk '/^test result: /{ ok += $4; bad += $6 } END { print ok + 0, bad + 0 }' "$log")
  while IFS= read -r line; do
    skip "$name: ${line#*skipped: }"
    # It returned early, so the harness called it passed.
    ok=$((ok - 1))
  done < <(grep -E '^skipped: ' "$log")
  while IFS= read -r line; do
    skip "$name: $line"
  done < <(sed -n 's/^test \(.*\) \.\.\. ignored,* *\(.*\)$/\1: \2/p' "$log")
  passed=$((passed + ok))
  while IFS= read -r line; do miss "$name: $line"; done < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
  if [ "$bad" -gt 0 ]; then sed -n '/^failures:$/,/^test result/p' "$log"; fi
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    miss "$name: over its limit of $limit"
    tail -n 40 "$log"
  elif [ "$code" != 0 ] && [ "$bad" = 0 ]; then
    miss "$name: did not get to its tests"
    tail -n 80 "$log"
  fi
}

# Runs a script that prints `ok NAME`, `FAILED NAME` or `skipped: NAME: WHY`, one line a case.
script() { # NAME LIMIT COMMAND...
  local name=$1 limit=$2 code=0 log line bad=0
  shift 2
  log=$logs/$name.log
  timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 </dev/null || code=$?
  while IFS= read -r line; do
    case $line in
      "ok "*) pass ;;
      "FAILED "*) miss "${line#FAILED }"; bad=1 ;;
      "skipped: "*) skip "${line#skipped: }" ;;
    esac
  done <"$log"
  if [ "$code" != 0 ] && [ "$bad" = 0 ]; then miss "$name: ended with $code"; fi
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
