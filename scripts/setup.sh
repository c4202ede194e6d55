#!/usr/bin/env bash
# Installs what a make target needs and the machine lacks: scripts/setup.sh NEED...
#
# A need is known by the commands it brings (and by nothing else, so a tool that was installed by
# other means than apt counts). Packages bring daemons along; none of them is started.
set -euo pipefail

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

# have COMMAND... : all of them are on the path.
have() {
    local name
    for name in "$@"; do
        command -v "$name" >/dev/null || return 1
    done
}

packages=()
components=()
for need in "$@"; do
    case $need in
        cc) have cc || packages+=(gcc libc6-dev) ;;
        redis) have redis-server redis-cli redis-benchmark || packages+=(redis-server redis-tools) ;;
        prometheus) have prometheus promtool || packages+=(prometheus) ;;
        nutcracker) have nutcracker || packages+=(nutcracker) ;;
        haproxy) have haproxy || packages+=(haproxy) ;;
        # Either both come from one place or Debian's would be mixed with somebody else's.
        node) have node || have npm || packages+=(nodejs npm) ;;
        python) have python3 || packages+=(python3) ;;
        venv) python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3 python3-venv python3-pip) ;;
        tcl) have tclsh || packages+=(tcl) ;;
        sources) have apt-get dpkg-source patch xz || packages+=(dpkg-dev xz-utils patch) ;;
        strace) have strace || packages+=(strace) ;;
        valgrind) have valgrind || packages+=(valgrind) ;;
        # rustup's minimal profile has neither; its shims are on the path all the same.
        lints)
            have rustc || fail 'Rust is missing: install it with rustup first'
            bin=$(rustc --print sysroot)/bin
            [ -x "$bin/cargo-fmt" ] || components+=(rustfmt)
            [ -x "$bin/cargo-clippy" ] || components+=(clippy)
            ;;
        profdata)
            have rustc || fail 'Rust is missing: install it with rustup first'
            found=$(find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata)
            [ -n "$found" ] || components+=(llvm-tools)
            ;;
        *) fail "no such need: $need" ;;
    esac
done

if [ ${#components[@]} -gt 0 ]; then
    have rustup || fail "missing: ${components[*]} (add them to the Rust toolchain)"
    rustup component add "${components[@]}"
fi

[ ${#packages[@]} -gt 0 ] || exit 0
have apt-get || fail "missing: ${packages[*]} (no apt-get here: install them by hand)"
[ "$(id -u)" = 0 ] || fail "missing: ${packages[*]} (run once as root: apt-get install ${packages[*]})"

# A package's daemon would take the ports that its users expect to be free (6379, 9090, ...).
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi

export DEBIAN_FRONTEND=noninteractive
printf 'setup: installing %s\n' "${packages[*]}"
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install "${packages[@]}" >/dev/null
