#!/bin/sh
# Installs the client libraries that tests/clients.rs uses into a directory of their own, once.
#   setup.sh DIRECTORY
set -eu
directory=$1
mkdir -p "$directory"

# On a fresh Debian the interpreters may be missing.
missing=
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q
    # shellcheck disable=SC2086 # a list of packages
    $sudo apt-get install -qy --no-install-recommends $missing
fi

if [ ! -e "$directory/python.done" ]; then
    python3 -m venv "$directory/python"
    "$directory/python/bin/pip" install -q --disable-pip-version-check redis
    touch "$directory/python.done"
fi
if [ ! -e "$directory/node.done" ]; then
    npm install --silent --no-audit --no-fund --no-save --prefix "$directory/node" redis
    touch "$directory/node.done"
fi
