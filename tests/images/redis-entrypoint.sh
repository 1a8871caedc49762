#!/bin/sh
# The official image's behaviour: options alone mean redis-server, root steps down, and other hosts may connect.
set -eu
case "${1:-}" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
  shift
  # A configuration file has to stay the first argument.
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
