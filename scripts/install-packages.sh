#!/usr/bin/env bash
# Installs the programs that a demonstration, the tests or CI need: only the missing ones, by apt.
# usage: scripts/install-packages.sh [demo|test|ci]
set -euo pipefail

# Servers live in sbin, which an ordinary user's PATH may lack.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# One line a need: what proves it (a program, or a file; `|` separates alternatives), then Debian's package,
# then the package that has it in older releases.
demo='
podman podman
runc runc
catatonit|/usr/libexec/podman/catatonit catatonit
/usr/lib/podman/netavark|/usr/libexec/podman/netavark netavark
/usr/lib/podman/aardvark-dns|/usr/libexec/podman/aardvark-dns aardvark-dns
slirp4netns slirp4netns
newuidmap uidmap
iptables iptables
git git
mmdebstrap mmdebstrap
/etc/ssl/certs/ca-certificates.crt ca-certificates
/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
curl curl
gcc gcc
pkg-config pkg-config
/usr/include/stdlib.h libc6-dev
npm npm
'
tests='
dockerd docker.io
docker docker-cli docker.io
initdb|/usr/lib/postgresql/*/bin/initdb postgresql
busybox busybox-static
git-lfs git-lfs
ssh-keygen openssh-client
/usr/lib/*/faketime/libfaketimeMT.so.1 libfaketime
'
purpose=${1:-demo}
case $purpose in
demo) needs=$demo ;;
test | ci) needs=$demo$tests ;;
*)
    echo "usage: $0 [demo|test|ci]" >&2
    exit 2
    ;;
esac

if ! command -v cargo >/dev/null; then
    echo 'error: cargo is missing
hint: install Rust 1.95 or newer with rustup, and put ~/.cargo/bin on the PATH' >&2
    exit 1
fi

present() {
    local proof file
    local -a proofs
    IFS='|' read -ra proofs <<<"$1"
    for proof in "${proofs[@]}"; do
        if [[ $proof == /* ]]; then
            # Unquoted on purpose: a proof may be a pattern.
            for file in $proof; do [[ ! -e $file ]] || return 0; done
        elif command -v "$proof" >/dev/null; then
            return 0
        fi
    done
    return 1
}

# list_missing: lines "PROOF PACKAGE OLDER-PACKAGE" of what is not there.
list_missing() {
    local proof package older
    while read -r proof package older; do
        [[ -z $proof ]] || present "$proof" || echo "$proof $package $older"
    done <<<"$needs"
}

root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [[ $(id -u) == 0 ]] && return
    command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }
}

# Package scripts must start no service: the tests start their own, and stop them.
forbid_services() {
    local policy=/usr/sbin/policy-rc.d
    saved_policy=$(mktemp -d)
    [[ ! -e $policy ]] || root cp -a "$policy" "$saved_policy/policy-rc.d"
    trap restore_policy EXIT
    printf '#!/bin/sh\nexit 101\n' | root tee "$policy" >/dev/null
    root chmod 755 "$policy"
}

restore_policy() {
    if [[ -e $saved_policy/policy-rc.d ]]; then
        root cp -a "$saved_policy/policy-rc.d" /usr/sbin/policy-rc.d
    else
        root rm -f /usr/sbin/policy-rc.d
    fi
    root rm -rf "$saved_policy"
}

install_missing() {
    local missing=$1 proof package older
    local -a packages=()
    root apt-get update -qq
    while read -r proof package older; do
        [[ -z $older ]] || apt-cache show "$package" >/dev/null 2>&1 || package=$older
        packages+=("$package")
    done <<<"$missing"
    # From Podman 5 on, rootless networks are pasta's.
    if [[ " ${packages[*]} " == *' podman '* && $(apt-cache policy podman) != *'Candidate: '[34].* ]]; then
        packages+=(passt)
    fi
    echo "installing: ${packages[*]}" >&2
    forbid_services
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Use-Pty=0 "${packages[@]}" >&2
}

missing=$(list_missing)
if [[ -n $missing ]]; then
    if command -v apt-get >/dev/null && can_be_root; then
        install_missing "$missing"
        missing=$(list_missing)
    fi
    if [[ -n $missing ]]; then
        {
            echo "error: these are needed for '$purpose' and missing (Debian's package in brackets):"
            while read -r proof package _; do echo "  ${proof%%|*} [$package]"; done <<<"$missing"
            echo "hint: install them with this system's package manager; on Debian or Ubuntu run this script as root or with sudo"
        } >&2
        exit 1
    fi
fi

# A rootless engine needs both devices; udev sees to that on most machines.
for device in /dev/net/tun /dev/fuse; do
    [[ -c $device && $(stat -c %A "$device") != *rw- ]] || continue
    if can_be_root; then
        root chmod 666 "$device"
    else
        echo "warning: $device is not open to ordinary users; run: chmod 666 $device (as root)" >&2
    fi
done

if [[ $purpose == ci ]] && ! command -v cargo-deny >/dev/null && [[ ! -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo-deny ]]; then
    # A debug build is quicker to make, and quick enough for one workspace.
    cargo install --locked --debug --quiet cargo-deny
fi
