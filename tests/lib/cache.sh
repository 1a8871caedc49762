# Downloads that are kept between test runs. Sourced by the scripts that need one.
# shellcheck shell=bash
PDEV_TEST_CACHE=${PDEV_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pdev-tests}
export PDEV_TEST_CACHE

# Prints a folder that the shell function RECIPE fills. The recipe receives the folder as its last argument.
# The folder's name contains a hash of the recipe and its arguments, so a changed version is a new download. An
# incomplete folder is created again. Returns 75 if the network is unreachable, so that callers skip only then, and 1 if
# the recipe failed.
cached() { # NAME RECIPE [ARGUMENT...]
  local name=$1 recipe=$2 key folder
  shift 2
  key=$({ declare -f "$recipe"; printf '%s\n' "$@"; } | sha256sum | cut -c1-12)
  folder=$PDEV_TEST_CACHE/$name-$key
  mkdir -p "$(dirname "$folder")"
  (
    flock -w 900 9 || { echo "another test run has locked $folder.lock for 15 minutes" >&2; exit 1; }
    [ ! -e "$folder/.complete" ] || exit 0
    rm -rf "$folder"
    mkdir "$folder"
    # Use a separate shell, because `set -e` has no effect in a function whose result is tested. It also ensures that
    # the recipe uses no other function or variable, which the hash would not cover. Close the lock's descriptor, or a
    # process that the recipe leaves behind would keep the lock.
    if ! bash -euc "$(declare -f "$recipe"); $recipe \"\$@\"" "$recipe" "$@" "$folder" >"$folder.log" 2>&1 </dev/null 9>&-; then
      tail -n 20 "$folder.log" >&2
      ! is_offline "$folder.log" || exit 75
      exit 1
    fi
    touch "$folder/.complete"
  ) 9>"$folder.lock" || return $?
  echo "$folder"
}

npm_packages() { # PACKAGE@VERSION... FOLDER     fills FOLDER/node_modules
  local folder=${*: -1}
  timeout 300 npm install --loglevel=error --no-audit --no-fund --prefix "$folder" "${@:1:$#-1}"
}

python_packages() { # PACKAGE==VERSION... FOLDER     creates a virtual environment in FOLDER
  local folder=${*: -1}
  timeout 60 python3 -m venv "$folder"
  timeout 600 "$folder/bin/python3" -m pip install -q --disable-pip-version-check "${@:1:$#-1}"
}

# Succeeds if LOG shows that a registry was unreachable. A registry that rejects a package does not count.
is_offline() { # LOG
  grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|Failed to establish a new connection|Network is unreachable|Temporary failure in name resolution|Could not resolve' "$1"
}
