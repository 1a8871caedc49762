# Prepares the machine for the tests: packages, Rust tools, a container engine. Sourced by tests/run.
# shellcheck shell=bash disable=SC2154

# Prints the Debian packages of the missing programs.
needed_packages() {
  has() { command -v "$1" >/dev/null 2>&1; }
  has cc || echo gcc libc6-dev
  has git || echo git
  has curl || echo curl
  has perl || echo perl
  # A machine may have only the client. Newer Debian releases have a separate package for the client.
  has docker || { apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli; }
  has dockerd || engine_answers || echo docker.io
  has iptables || echo iptables
  has mmdebstrap || echo mmdebstrap
  has musl-gcc || echo musl-tools
  has shellcheck || echo shellcheck
  has node || echo nodejs
  has tmux || echo tmux
  has dbus-daemon || echo dbus-daemon
  has gnome-keyring-daemon || echo gnome-keyring
  has gcore || echo gdb
  has gdbus || echo libglib2.0-bin
  has secret-tool || echo libsecret-tools
  has redis-server || echo redis-server
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || echo postgresql
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
  /usr/bin/python3 -c 'import psycopg2' 2>/dev/null || echo python3-psycopg2
  /usr/bin/python3 -c 'import redis' 2>/dev/null || echo python3-redis
}

install_packages() {
  local missing
  # Debian installs dockerd and iptables in /usr/sbin, which the PATH of a user may not contain.
  PATH=$PATH:/usr/sbin:/sbin
  mapfile -t missing < <(needed_packages | tr ' ' '\n' | sort -u)
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    skip "machine: packages not installed, because this needs root on Debian or Ubuntu: ${missing[*]}"
    return 0
  fi
  echo "installing: ${missing[*]}"
  # RUNLEVEL=1 prevents that the packages start their servers.
  local apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -y -o Dpkg::Use-Pty=0)
  if ! timeout 900 "${apt[@]}" install --no-install-recommends "${missing[@]}" >"$logs/apt.log" 2>&1 </dev/null; then
    # The usual cause on a fresh machine: the package lists are missing or outdated.
    timeout 300 "${apt[@]}" update >>"$logs/apt.log" 2>&1 </dev/null
    if ! timeout 900 "${apt[@]}" install --no-install-recommends "${missing[@]}" >>"$logs/apt.log" 2>&1 </dev/null; then
      skip "machine: packages could not be installed (see $logs/apt.log): ${missing[*]}"
      tail -n 5 "$logs/apt.log"
    fi
  fi
}

# Installs credential providers and clients that distributions do not package, in separate folders.
install_counterparts() {
  local folder
  if [ -n "${PDEV_TEST_NODE_MODULES:-}" ]; then
    :
  elif ! command -v npm >/dev/null; then
    skip "machine: npm's oidc-provider: npm is not installed"
  elif folder=$(cached node npm_packages oidc-provider@9.13.3 2>"$logs/npm.log"); then
    export PDEV_TEST_NODE_MODULES=$folder/node_modules
  else
    skip_download "npm's oidc-provider" "$logs/npm.log"
  fi
  if [ -n "${PDEV_TEST_PYTHON:-}" ]; then
    :
  elif folder=$(cached python python_packages 'moto[server]==5.2.5' boto3==1.44.8 proxy.py==2.4.10 keyring==25.7.0 2>"$logs/pip.log"); then
    export PDEV_TEST_PYTHON=$folder/bin/python3
  else
    skip_download "python's moto, boto3, proxy.py and keyring" "$logs/pip.log"
  fi
  # The SDKs with which services request credentials. A plain folder, because containers mount it.
  if [ -n "${PDEV_TEST_SDKS:-}" ]; then
    :
  elif folder=$(cached sdks python_folder "${PDEV_TEST_PYTHON:-python3}" boto3==1.44.8 google-auth==2.63.0 requests==2.34.2 azure-identity==1.27.0 hvac==2.4.0 2>"$logs/sdks.log"); then
    export PDEV_TEST_SDKS=$folder
  else
    skip_download "the clouds' SDKs for python" "$logs/sdks.log"
  fi
}

python_folder() { # PYTHON PACKAGE==VERSION... FOLDER
  local python=$1 folder=${*: -1}
  timeout 600 "$python" -m pip install -q --disable-pip-version-check --target "$folder" "${@:2:$#-2}"
}

# Reports a failed download: a skip without network access, else a failure.
skip_download() { # WHAT LOG
  if is_offline "$2"; then
    skip "machine: $1: no network access"
  else
    fail "machine: $1 could not be installed"
    tail -n 20 "$2"
  fi
}

install_toolchain() {
  if ! command -v cargo >/dev/null && [ -x "${HOME:-}/.cargo/bin/cargo" ]; then PATH=${HOME:-}/.cargo/bin:$PATH; fi
  command -v cargo >/dev/null || { echo "tests/run: cargo is not found; install Rust from https://rustup.rs" >&2; exit 2; }
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    if command -v rustup >/dev/null; then rustup -q component add rustfmt clippy >/dev/null 2>&1; fi
  fi
}

engine_pid=''

engine_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Uses a running engine if one answers. Otherwise starts one with its own folders, so that no other engine is touched.
start_engine() {
  [ -z "${engine_tried:-}" ] || return 0
  engine_tried=yes
  if ! command -v docker >/dev/null; then
    skip "machine: no container engine: the docker command is not installed"
    return 0
  fi
  if engine_answers; then
    echo "engine: $(docker version --format '{{.Server.Version}}'), already running"
  elif [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
    skip "machine: no container engine answers, and starting one needs root and dockerd"
    return 0
  else
    start_own_engine || return 0
  fi
  if ! timeout 900 "$here/images/build" >"$logs/images.log" 2>&1 </dev/null; then
    skip "machine: base images could not be built (see $logs/images.log): $(tail -n 1 "$logs/images.log")"
  fi
  sed -n '/^images: /p' "$logs/images.log"
}

start_own_engine() {
  local folder=$scratch/engine deadline
  mkdir -p "$folder" "$cache/engine"
  export DOCKER_HOST=unix://$folder/docker.sock
  # In its own session, because Ctrl-C would end the engine before the tests have cleaned up.
  setsid dockerd --data-root "$cache/engine" --exec-root "$folder/exec" --pidfile "$folder/pid" --host "$DOCKER_HOST" \
    >"$logs/dockerd.log" 2>&1 </dev/null &
  engine_pid=$!
  # dockerd signals no readiness, so poll until it answers or exits.
  deadline=$((SECONDS + 60))
  until engine_answers; do
    if ! kill -0 "$engine_pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      skip "machine: dockerd does not start (see $logs/dockerd.log): $(grep -v '^time=.*level=info' "$logs/dockerd.log" | tail -n 1)"
      stop_engine
      unset DOCKER_HOST
      return 1
    fi
    pause 0.2
  done
  echo "engine: $(docker version --format '{{.Server.Version}}'), started for these tests"
}

stop_engine() {
  [ -n "$engine_pid" ] || return 0
  local deadline=$((SECONDS + 20))
  kill -TERM "$engine_pid" 2>/dev/null
  while kill -0 "$engine_pid" 2>/dev/null; do
    if [ $SECONDS -ge $deadline ]; then kill -KILL "$engine_pid" 2>/dev/null; break; fi
    pause 0.1
  done
  wait "$engine_pid" 2>/dev/null
  engine_pid=''
}

# Waits between two polls. A read from a pipe without a writer needs no process, unlike `sleep`.
pause() { read -r -t "$1" <>"$silent_pipe" || :; } # SECONDS
