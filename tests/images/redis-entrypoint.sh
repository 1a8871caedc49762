#!/bin/sh
# Like the official image: runs redis-server if only options are given, drops root privileges, and accepts other hosts.
set -eu
case "${1:-}" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
  shift
  # redis-server accepts a configuration file only as its first argument.
  case "${1:-}" in
    *.conf) file=$1; shift; set -- redis-server "$file" --protected-mode no "$@" ;;
    *) set -- redis-server --protected-mode no "$@" ;;
  esac
  if [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis:redis '{}' +
    exec setpriv --reuid redis --regid redis --init-groups "$@"
  fi
fi
exec "$@"
