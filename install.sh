#!/bin/sh
# Installs pdev with shell completions and man pages, from a build of this checkout or from a given binary.
# Every file and folder that it creates is listed in a record. `--uninstall` removes exactly the listed paths.
set -eu

usage() {
  cat <<'TEXT'
usage: ./install.sh [options]

  --prefix DIR     install below DIR (default: ~/.local)
  --bin-dir DIR    install the binary in DIR (default: PREFIX/bin)
  --binary FILE    install this binary instead of building one
  --no-static      link with the system's C library even if a static binary could be built
  --uninstall      stop all previews and the agent, and remove the installed files; keep data
  --purge          with --uninstall: also remove data volumes, state, caches and configuration
  --force          with --uninstall: continue even if previews cannot be stopped
  --dry-run        print the commands without running them
  --help           print this help
TEXT
}

info() { printf '%s\n' "$*"; }
fail() {
  printf 'install.sh: %s\n' "$1" >&2
  shift
  for hint in "$@"; do printf '  %s\n' "$hint" >&2; done
  exit 1
}
# Runs a command. With --dry-run, only prints it.
run() {
  if [ "$dry_run" = yes ]; then info "would run: $*"; else "$@"; fi
}

prefix='' bin_dir='' binary='' static=yes uninstall=no purge=no force=no dry_run=no
while [ $# -gt 0 ]; do
  case $1 in
    --prefix | --bin-dir | --binary)
      if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 needs a value" "See ./install.sh --help."; fi
      case $1 in --prefix) prefix=$2 ;; --bin-dir) bin_dir=$2 ;; --binary) binary=$2 ;; esac
      shift
      ;;
    --prefix=*) prefix=${1#*=} ;;
    --bin-dir=*) bin_dir=${1#*=} ;;
    --binary=*) binary=${1#*=} ;;
    --no-static) static=no ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    --force) force=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown option \`$1\`" "See ./install.sh --help." ;;
  esac
  shift
done
if [ "$uninstall" = no ] && [ "$purge$force" != nono ]; then fail "--purge and --force need --uninstall"; fi

home=${HOME:-}
if [ -z "$prefix" ]; then
  [ -n "$home" ] || fail "HOME is not set" "Set it, or give --prefix DIR."
  prefix=$home/.local
  share=${XDG_DATA_HOME:-$prefix/share}
else
  share=$prefix/share
fi
# The record contains absolute paths, because --uninstall may run in another folder.
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$(pwd)" "$1" ;; esac; }
prefix=$(absolute "$prefix") share=$(absolute "$share")
bin_dir=$(absolute "${bin_dir:-$prefix/bin}")
record=$share/pdev-installed.txt
source_dir=$(cd "$(dirname "$0")" && pwd)

# --- removing -------------------------------------------------------------------------------------------------------

# Prints the folders of pdev: config, state, data, cache, in this order.
data_folders() {
  if [ "$(uname -s)" = Darwin ]; then
    printf '%s\n' "$home/Library/Application Support/pdev" "$home/Library/Caches/pdev"
  else
    printf '%s\n' "${XDG_CONFIG_HOME:-$home/.config}/pdev" "${XDG_STATE_HOME:-$home/.local/state}/pdev" \
      "${XDG_DATA_HOME:-$home/.local/share}/pdev" "${XDG_CACHE_HOME:-$home/.cache}/pdev"
  fi
}

stop_everything() {
  # Without any folder of pdev, no preview runs, and `pdev down` would only start an agent.
  used=$(data_folders | while IFS= read -r path; do [ ! -e "$path" ] || echo "$path"; done)
  if [ ! -x "$installed" ] || [ -z "$used" ]; then return 0; fi
  # Previews first: only the agent can stop them.
  set -- down --all --quiet
  [ "$purge" = no ] || set -- "$@" --volumes
  if run "$installed" "$@" </dev/null && run "$installed" agent stop </dev/null; then return 0; fi
  [ "$force" = yes ] ||
    fail "previews or the agent could not be stopped, so nothing was removed" \
      "Run \`pdev ls\` to list the previews, stop them and try again, or add --force to leave them running."
  info "previews or the agent could not be stopped; continuing because of --force"
}

remove() {
  if [ ! -f "$record" ]; then
    info "pdev is not installed below $prefix (no $record)"
  else
    installed=$(sed -n 's/^file //p' "$record" | head -n 1)
    stop_everything
    folders=$(sed -n 's/^dir //p' "$record" | sed '1!G;h;$!d')
    sed -n 's/^file //p' "$record" | while IFS= read -r path; do run rm -f -- "$path"; done
    run rm -f -- "$record"
    # The record lists parents before children, so remove in reverse order. Other programs' files keep a folder.
    printf '%s\n' "$folders" | while IFS= read -r path; do
      [ -n "$path" ] || continue
      if [ "$dry_run" = yes ]; then info "would remove if empty: $path"; else rmdir -- "$path" 2>/dev/null || :; fi
    done
    info "removed pdev from $bin_dir"
  fi
  [ -n "$home" ] || return 0
  data_folders | while IFS= read -r path; do
    [ -e "$path" ] || continue
    if [ "$purge" = yes ]; then
      run rm -rf -- "$path"
      info "removed $path"
    else
      info "kept $path (remove it with --uninstall --purge)"
    fi
  done
}

# --- building -------------------------------------------------------------------------------------------------------

check_tools() {
  [ -f "$source_dir/Cargo.toml" ] ||
    fail "there is no source code next to install.sh" "Run it inside a checkout, or use --binary FILE."
  # Right after the installation of rustup, the open shell does not have ~/.cargo/bin in PATH yet.
  command -v cargo >/dev/null 2>&1 || [ ! -x "$home/.cargo/bin/cargo" ] || PATH=$home/.cargo/bin:$PATH
  command -v cargo >/dev/null 2>&1 ||
    fail "cargo is not found" "Install Rust from https://rustup.rs and open a new terminal," \
      "or install an existing binary: ./install.sh --binary FILE"
  required=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$source_dir/Cargo.toml")
  found=$(cd "$source_dir" && cargo --version 2>&1 | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
  [ -n "$found" ] || fail "\`cargo --version\` fails in $source_dir" "Run it yourself: cd $source_dir && cargo --version"
  oldest=$(printf '%s\n%s\n' "$required" "$found" | sort -t . -k 1,1n -k 2,2n | head -n 1)
  [ "$oldest" = "$required" ] || [ "${found%.*}" = "$required" ] ||
    fail "cargo $found is too old; pdev needs $required or newer" "Run \`rustup update stable\` and try again."
  command -v cc >/dev/null 2>&1 ||
    fail "the bundled SQLite needs a C compiler, and \`cc\` is not found" \
      "Install it. Debian, Ubuntu: apt-get install gcc libc6-dev. macOS: xcode-select --install."
}

# Prints the static target if this machine can build for it. Otherwise prints the reason to standard error.
static_target() {
  if [ "$static" = no ] || [ "$(uname -s)" != Linux ]; then return 0; fi
  target=$(uname -m)-unknown-linux-musl
  if ! command -v musl-gcc >/dev/null 2>&1; then
    info "musl-gcc is not installed (Debian, Ubuntu: musl-tools): the binary will use the system's C library" >&2
  # A broken musl installation would fail only after minutes of building, so compile a small program first.
  elif ! printf 'int main(void) { return 0; }\n' | musl-gcc -x c -o /dev/null - 2>/dev/null; then
    info "musl-gcc cannot compile a test program: the binary will use the system's C library" >&2
  elif ! (cd "$source_dir" && has_target "$target"); then
    info "the target $target cannot be added: the binary will use the system's C library" >&2
  else
    printf '%s' "$target"
  fi
}

has_target() {
  [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ] && return 0
  command -v rustup >/dev/null 2>&1 || return 1
  if [ "$dry_run" = yes ]; then info "would run: rustup target add $1" >&2; else rustup target add "$1" >/dev/null 2>&1; fi
}

build() {
  check_tools
  target=$(static_target)
  info "building pdev (release${target:+, static}); the first build takes a few minutes"
  if [ "$dry_run" = yes ]; then
    info "would run: cargo build --release --locked -p cli --bin pdev${target:+ --target $target}"
    binary=target/${target:+$target/}release/pdev
    return 0
  fi
  (cd "$source_dir" && cargo build --release --locked -p cli --bin pdev ${target:+--target "$target"}) ||
    fail "the build failed; the output of cargo above shows the cause"
  # The target folder depends on CARGO_TARGET_DIR and on the user's cargo configuration, so ask cargo.
  folder=$(cd "$source_dir" && cargo metadata --no-deps --format-version 1 --locked |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  binary=$folder/${target:+$target/}release/pdev
  # The bill of materials of this build: which packages are in the binary.
  (cd "$source_dir" && tests/install/sbom ${target:+"$target"}) >"$binary.cdx.json" ||
    info "the bill of materials could not be written"
}

# --- installing -----------------------------------------------------------------------------------------------------

# Creates a folder and its parents, and records the created ones.
folder() {
  if [ -d "$1" ] || [ "$dry_run" = yes ]; then return 0; fi
  folder "$(dirname "$1")"
  mkdir "$1"
  remember dir "$1"
}

remember() {
  [ "$dry_run" = no ] || return 0
  grep -qxF "$1 $2" "$record_new" || printf '%s %s\n' "$1" "$2" >>"$record_new"
}

# Writes the output of a command to a file. If the command fails, the previous file stays.
generate() {
  path=$1
  shift
  folder "$(dirname "$path")"
  if [ "$dry_run" = yes ]; then info "would write: $path"; return 0; fi
  if "$@" >"$path.part" </dev/null && [ -s "$path.part" ]; then
    mv -f "$path.part" "$path"
    remember file "$path"
  else
    rm -f "$path.part"
    fail "\`$*\` failed"
  fi
}

install_binary() {
  target=$bin_dir/pdev
  folder "$bin_dir"
  # The kernel refuses writes to a running binary (ETXTBSY). Renaming a new file over it works.
  run cp "$binary" "$target.part.$$"
  run chmod 755 "$target.part.$$"
  run mv -f "$target.part.$$" "$target"
  remember file "$target"
}

man_pages() {
  pages=$share/man/man1
  folder "$pages"
  run "$bin_dir/pdev" man "$pages" </dev/null || fail "\`pdev man\` failed"
  for page in "$pages"/pdev.1 "$pages"/pdev-*.1; do
    [ ! -f "$page" ] || remember file "$page"
  done
}

save_record() {
  if [ "$dry_run" = no ] && [ -s "$record_new" ] && [ -d "$share" ]; then cp "$record_new" "$record"; fi
  rm -f "$record_new"
}

install_all() {
  if [ -z "$binary" ]; then
    build
  else
    binary=$(absolute "$binary")
    [ -f "$binary" ] || fail "there is no file \`$binary\`" "Pass an existing binary with --binary FILE."
    case $("$binary" --version 2>&1 </dev/null || :) in
      "pdev "*) ;;
      *) fail "\`$binary\` is not a pdev binary for this machine" "Check it: \`$binary --version\` must print \`pdev\` and a version." ;;
    esac
  fi
  replaced=no
  [ ! -e "$bin_dir/pdev" ] || replaced=yes
  record_new=$(mktemp)
  # Save the record on failure, too, so that --uninstall can remove a partial installation.
  trap save_record EXIT
  [ ! -f "$record" ] || cat "$record" >"$record_new"
  folder "$share"
  install_binary
  generate "$share/bash-completion/completions/pdev" "$bin_dir/pdev" completions bash
  generate "$share/zsh/site-functions/_pdev" "$bin_dir/pdev" completions zsh
  generate "$share/fish/vendor_completions.d/pdev.fish" "$bin_dir/pdev" completions fish
  man_pages
  if [ "$dry_run" = yes ]; then info "would write: $record"; return 0; fi
  info "installed $("$bin_dir/pdev" --version </dev/null) as $bin_dir/pdev"
  [ "$replaced" = no ] || info "a running agent keeps the old version until \`pdev agent stop\`; previews keep running"
  case :${PATH:-}: in
    *":$bin_dir:"*) ;;
    *) info "$bin_dir is not on PATH; add it with: export PATH=\"$bin_dir:\$PATH\"" ;;
  esac
  info "next: pdev up examples/hello"
}

if [ "$uninstall" = yes ]; then remove; else install_all; fi
