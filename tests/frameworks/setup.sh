#!/bin/sh
# Installs the frameworks that tests/long_frameworks.rs runs into a directory of their own, once.
#   setup.sh DIRECTORY
set -eu
directory=$1
here=$(dirname "$0")
mkdir -p "$directory"

# What comes from Debian: interpreters, Sidekiq, PHP's client.
missing=
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
command -v sidekiq >/dev/null || missing="$missing ruby-sidekiq"
php -r 'new Redis();' 2>/dev/null || missing="$missing php-cli php-redis"
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qy --no-install-recommends $missing
fi

# venv NAME REQUIREMENTS: made again when the requirements change.
venv() {
    cmp -s "$here/$2" "$directory/$1.done" && return
    rm -rf "${directory:?}/$1"
    python3 -m venv "$directory/$1"
    "$directory/$1/bin/pip" install -q --disable-pip-version-check --prefer-binary -r "$here/$2"
    cp "$here/$2" "$directory/$1.done"
}
venv python requirements.txt
venv python-arq requirements-arq.txt

if ! cmp -s "$here/package.json" "$directory/node.done"; then
    mkdir -p "$directory/node"
    cp "$here/package.json" "$directory/node/package.json"
    npm install --silent --no-audit --no-fund --no-package-lock --prefix "$directory/node"
    cp "$here/package.json" "$directory/node.done"
fi
