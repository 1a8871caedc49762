#!/bin/sh
# Builds pdev from this checkout, or takes a binary, and installs it with completions and man pages; undoes it again.
# Everything it makes is written to a record, and `--uninstall` removes exactly what stands there.
set -eu

usage() {
  cat <<'TEXT'
usage: ./install.sh [options]

  --prefix DIR     install below DIR (default: ~/.local)
  --bin-dir DIR    put the binary into DIR (default: PREFIX/bin)
  --binary FILE    install this binary instead of building one
  --no-static      link with the system's C library even where a static binary could be built
  --uninstall      stop all previews and the agent, and remove what was installed; data stays
  --purge          with --uninstall: remove data volumes, state, caches and configuration as well
  --force          with --uninstall: go on even if previews cannot be stopped
  --dry-run        say what would be done, and do nothing
  --help           this text
TEXT
}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'install.sh: %s\n' "$1" >&2
  shift
  for hint in "$@"; do printf '  %s\n' "$hint" >&2; done
  exit 1
}
# Runs a command, or says that it would.
act() {
  if [ "$dry_run" = yes ]; then say "would run: $*"; else "$@"; fi
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
if [ "$uninstall" = no ] && [ "$purge$force" != nono ]; then fail "--purge and --force go with --uninstall"; fi

home=${HOME:-}
if [ -z "$prefix" ]; then
  [ -n "$home" ] || fail "HOME is not set" "Set it, or give --prefix DIR."
  prefix=$home/.local
  share=${XDG_DATA_HOME:-$prefix/share}
else
  share=$prefix/share
fi
# Paths in the record have to mean the same from every folder.
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$(pwd)" "$1" ;; esac; }
prefix=$(absolute "$prefix") share=$(absolute "$share")
bin_dir=$(absolute "${bin_dir:-$prefix/bin}")
record=$share/pdev-installed.txt
source_dir=$(cd "$(dirname "$0")" && pwd)

# --- removing -------------------------------------------------------------------------------------------------------

# Where pdev keeps things: config, state, data, cache, in this order.
places() {
  if [ "$(uname -s)" = Darwin ]; then
    printf '%s\n' "$home/Library/Application Support/pdev" "$home/Library/Caches/pdev"
  else
    printf '%s\n' "${XDG_CONFIG_HOME:-$home/.config}/pdev" "${XDG_STATE_HOME:-$home/.local/state}/pdev" \
      "${XDG_DATA_HOME:-$home/.local/share}/pdev" "${XDG_CACHE_HOME:-$home/.cache}/pdev"
  fi
}

stop_everything() {
  # Where pdev never kept anything, nothing runs, and asking would only start an agent.
  used=$(places | while IFS= read -r place; do [ ! -e "$place" ] || echo "$place"; done)
  if [ ! -x "$installed" ] || [ -z "$used" ]; then return 0; fi
  # Previews first: without the agent nobody would know how to stop them.
  set -- down --all --quiet
  [ "$purge" = no ] || set -- "$@" --volumes
  if act "$installed" "$@" </dev/null && act "$installed" agent stop </dev/null; then return 0; fi
  [ "$force" = yes ] ||
    fail "previews or the agent could not be stopped, so nothing was removed" \
      "\`pdev ls\` shows what runs; run this again when it is gone, or add --force to leave it running."
  say "previews or the agent could not be stopped; going on because of --force"
}

remove() {
  if [ ! -f "$record" ]; then
    say "pdev is not installed below $prefix (no $record)"
  else
    installed=$(sed -n 's/^file //p' "$record" | head -n 1)
    stop_everything
    folders=$(sed -n 's/^dir //p' "$record" | sed '1!G;h;$!d')
    sed -n 's/^file //p' "$record" | while IFS= read -r path; do act rm -f -- "$path"; done
    act rm -f -- "$record"
    # Folders were recorded outermost first; they go in the opposite order, and only when empty.
    printf '%s\n' "$folders" | while IFS= read -r path; do
      [ -n "$path" ] || continue
      if [ "$dry_run" = yes ]; then say "would remove if empty: $path"; else rmdir -- "$path" 2>/dev/null || :; fi
    done
    say "removed pdev from $bin_dir"
  fi
  [ -n "$home" ] || return 0
  places | while IFS= read -r place; do
    [ -e "$place" ] || continue
    if [ "$purge" = yes ]; then
      act rm -rf -- "$place"
      say "removed $place"
    else
      say "kept $place (remove it with --uninstall --purge)"
    fi
  done
}

# --- building -------------------------------------------------------------------------------------------------------

check_tools() {
  [ -f "$source_dir/Cargo.toml" ] ||
    fail "there is no source beside install.sh" "Run it inside a checkout, or give --binary FILE."
  command -v cargo >/dev/null 2>&1 || [ ! -x "$home/.cargo/bin/cargo" ] || PATH=$home/.cargo/bin:$PATH
  command -v cargo >/dev/null 2>&1 ||
    fail "cargo is not found" "Install Rust from https://rustup.rs and open a new terminal," \
      "or install a binary somebody built: ./install.sh --binary FILE"
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$source_dir/Cargo.toml")
  found=$(cd "$source_dir" && cargo --version 2>&1 | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
  [ -n "$found" ] || fail "\`cargo --version\` does not work here" "Try it by hand: cd $source_dir && cargo --version"
  oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -t . -k 1,1n -k 2,2n | head -n 1)
  [ "$oldest" = "$wanted" ] || [ "${found%.*}" = "$wanted" ] ||
    fail "cargo $found is too old; pdev needs $wanted or newer" "Run \`rustup update stable\` and try again."
  command -v cc >/dev/null 2>&1 ||
    fail "there is no C compiler (\`cc\`), which the bundled SQLite needs" \
      "Debian, Ubuntu: apt-get install gcc libc6-dev. macOS: xcode-select --install."
}

# Prints the static target when this machine can build for it; otherwise one sentence to standard error.
static_target() {
  if [ "$static" = no ] || [ "$(uname -s)" != Linux ]; then return 0; fi
  target=$(uname -m)-unknown-linux-musl
  if ! command -v musl-gcc >/dev/null 2>&1; then
    say "no musl-gcc (Debian, Ubuntu: musl-tools): the binary will use the system's C library" >&2
  elif ! printf 'int main(void) { return 0; }\n' | musl-gcc -x c -o /dev/null - 2>/dev/null; then
    say "musl-gcc does not work here: the binary will use the system's C library" >&2
  elif ! (cd "$source_dir" && has_target "$target"); then
    say "the target $target cannot be added: the binary will use the system's C library" >&2
  else
    printf '%s' "$target"
  fi
}

has_target() {
  [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ] && return 0
  command -v rustup >/dev/null 2>&1 || return 1
  if [ "$dry_run" = yes ]; then say "would run: rustup target add $1" >&2; else rustup target add "$1" >/dev/null 2>&1; fi
}

build() {
  check_tools
  target=$(static_target)
  say "building pdev (release${target:+, static}); a few minutes the first time"
  if [ "$dry_run" = yes ]; then
    say "would run: cargo build --release --locked -p cli --bin pdev${target:+ --target $target}"
    binary=target/${target:+$target/}release/pdev
    return 0
  fi
  (cd "$source_dir" && cargo build --release --locked -p cli --bin pdev ${target:+--target "$target"}) ||
    fail "the build failed; its messages stand above"
  folder=$(cd "$source_dir" && cargo metadata --no-deps --format-version 1 --locked |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  binary=$folder/${target:+$target/}release/pdev
}

# --- installing -----------------------------------------------------------------------------------------------------

# Makes a folder with its parents and records those that did not exist.
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

# What a command prints becomes a file, whole or not at all.
generate() {
  path=$1
  shift
  folder "$(dirname "$path")"
  if [ "$dry_run" = yes ]; then say "would write: $path"; return 0; fi
  if "$@" >"$path.part" </dev/null && [ -s "$path.part" ]; then
    mv -f "$path.part" "$path"
    remember file "$path"
  else
    rm -f "$path.part"
    fail "\`$*\` failed"
  fi
}

put() {
  target=$bin_dir/pdev
  folder "$bin_dir"
  # A running binary cannot be written to, but it can be replaced.
  act cp "$binary" "$target.part.$$"
  act chmod 755 "$target.part.$$"
  act mv -f "$target.part.$$" "$target"
  remember file "$target"
}

man_pages() {
  pages=$share/man/man1
  folder "$pages"
  act "$bin_dir/pdev" man "$pages" </dev/null || fail "\`pdev man\` failed"
  for page in "$pages"/pdev.1 "$pages"/pdev-*.1; do
    [ ! -f "$page" ] || remember file "$page"
  done
}

keep_record() {
  if [ "$dry_run" = no ] && [ -s "$record_new" ] && [ -d "$share" ]; then cp "$record_new" "$record"; fi
  rm -f "$record_new"
}

install_all() {
  if [ -z "$binary" ]; then
    build
  else
    binary=$(absolute "$binary")
    [ -f "$binary" ] || fail "there is no file \`$binary\`"
    case $("$binary" --version 2>&1 </dev/null || :) in
      "pdev "*) ;;
      *) fail "\`$binary\` is not a pdev that runs on this machine" "\`$binary --version\` should print \`pdev\` and a version." ;;
    esac
  fi
  replaced=no
  [ ! -e "$bin_dir/pdev" ] || replaced=yes
  record_new=$(mktemp)
  # Also what a failed installation made can be removed by --uninstall.
  trap keep_record EXIT
  [ ! -f "$record" ] || cat "$record" >"$record_new"
  folder "$share"
  put
  generate "$share/bash-completion/completions/pdev" "$bin_dir/pdev" completions bash
  generate "$share/zsh/site-functions/_pdev" "$bin_dir/pdev" completions zsh
  generate "$share/fish/vendor_completions.d/pdev.fish" "$bin_dir/pdev" completions fish
  man_pages
  if [ "$dry_run" = yes ]; then say "would write: $record"; return 0; fi
  say "installed $("$bin_dir/pdev" --version </dev/null) as $bin_dir/pdev"
  [ "$replaced" = no ] || say "a running agent stays the old one until \`pdev agent stop\`; previews go on meanwhile"
  case :${PATH:-}: in
    *":$bin_dir:"*) ;;
    *) say "$bin_dir is not on PATH; add it with: export PATH=\"$bin_dir:\$PATH\"" ;;
  esac
  say "next: pdev up examples/hello"
}

if [ "$uninstall" = yes ]; then remove; else install_all; fi
