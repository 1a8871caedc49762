# Downloads that tests keep between runs. Sourced by the scripts that need one.
# shellcheck shell=bash
PDEV_TEST_CACHE=${PDEV_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pdev-tests}
export PDEV_TEST_CACHE

# Prints the folder that the shell function RECIPE fills; the folder is the recipe's last argument. Its name contains a
# hash of the recipe and its arguments, so a changed version is a new download. An incomplete folder is made anew.
# Returns 75 if the network cannot be reached, so that callers skip for that reason alone; 1 if the recipe failed.
cached() { # NAME RECIPE [ARGUMENT...]
  local name=$1 recipe=$2 key folder
  shift 2
  key=$({ declare -f "$recipe"; printf '%s\n' "$@"; } | sha256sum | cut -c1-12)
  folder=$PDEV_TEST_CACHE/$name-$key
  mkdir -p "$(dirname "$folder")"
  (
    flock -w 900 9 || { echo "another test run holds $folder.lock" >&2; exit 1; }
    [ ! -e "$folder/.complete" ] || exit 0
    rm -rf "$folder"
    mkdir "$folder"
    # A shell of its own: `set -e` has no effect in a function whose result is tested, and a recipe that used other
    # functions or variables would not be covered by its hash.
    if ! bash -euc "$(declare -f "$recipe"); $recipe \"\$@\"" "$recipe" "$@" "$folder" >"$folder.log" 2>&1 </dev/null 9>&-; then
      tail -n 20 "$folder.log" >&2
      ! is_offline "$folder.log" || exit 75
      exit 1
    fi
    touch "$folder/.complete"
  ) 9>"$folder.lock" || return $?
  echo "$folder"
}

npm_packages() { # PACKAGE@VERSION... FOLDER
  local folder=${*: -1}
  timeout 300 npm install --loglevel=error --no-audit --no-fund --prefix "$folder" "${@:1:$#-1}"
}

python_packages() { # PACKAGE==VERSION... FOLDER     a virtual environment in FOLDER
  local folder=${*: -1}
  timeout 60 python3 -m venv "$folder"
  timeout 600 "$folder/bin/python3" -m pip install -q --disable-pip-version-check "${@:1:$#-1}"
}

# Succeeds if LOG shows that a registry could not be reached, as opposed to a registry that refused a package.
is_offline() { # LOG
  grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|Failed to establish a new connection|Network is unreachable|Temporary failure in name resolution|Could not resolve' "$1"
}
