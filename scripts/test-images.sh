#!/usr/bin/env bash
# Makes the image fabrica-test/tiny:1 (a static busybox, about 2 MB) on each engine that lacks it.
# usage: scripts/with-services.sh scripts/test-images.sh
# Over the engines' own interface, so no client program is needed. Podman knows it as localhost/fabrica-test/tiny:1,
# and as docker.io/fabrica-test/tiny:1, which is what its Docker-compatible interface makes of the short name.
set -euo pipefail
umask 022

name=fabrica-test/tiny tag=1
changes=$(printf '&changes=%s' 'USER%201000:1000' 'WORKDIR%20/tmp' 'ENV%20PATH=/bin' 'CMD%20%5B%22/bin/sh%22%5D')

# engine SOCKET METHOD PATH [CURL ARGUMENT…]
engine() {
    local socket=$1 method=$2 path=$3
    shift 3
    curl -sS --fail-with-body -m 120 -X "$method" --unix-socket "$socket" "http://engine$path" "$@"
}

# build_archive: once, when the first engine lacks the image.
build_archive() {
    local busybox root=$work/root
    [[ ! -e $work/root.tar ]] || return 0
    if ! busybox=$(command -v busybox) || [[ $(LC_ALL=C ldd "$busybox" 2>&1) == *'=>'* ]]; then
        echo "error: a static busybox is missing" >&2
        echo "hint: run scripts/install-packages.sh test" >&2
        exit 1
    fi
    mkdir -p "$root"/{bin,dev,etc,home/agent,proc,sys,tmp,run,workspace}
    cp "$busybox" "$root/bin/busybox"
    # Applets as links: the image holds one program.
    "$busybox" --list | while read -r applet; do
        [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\nagent:x:1000:\n' >"$root/etc/group"
    chmod 1777 "$root/tmp" "$root/workspace" "$root/home/agent"
    tar --create --file "$work/root.tar" --numeric-owner --owner=0 --group=0 --directory "$root" .
}

ensure_image() {
    local engine=$1 socket=$2
    [[ -n $socket ]] || return 0
    ! engine "$socket" GET "/images/$name:$tag/json" >/dev/null 2>&1 || return 0
    build_archive
    echo "making $name:$tag on $engine" >&2
    if [[ $engine == docker ]]; then
        engine "$socket" POST "/images/create?fromSrc=-&repo=$name&tag=$tag$changes" -T "$work/root.tar" -o /dev/null
    else
        engine "$socket" POST "/v4.0.0/libpod/images/import?reference=localhost/$name:$tag$changes" \
            -H 'Content-Type: application/x-tar' -T "$work/root.tar" -o /dev/null
        engine "$socket" POST "/v4.0.0/libpod/images/localhost/$name:$tag/tag?repo=docker.io/$name&tag=$tag"
    fi
    # An import that failed says so in a body with status 200.
    engine "$socket" GET "/images/$name:$tag/json" -o /dev/null
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
ensure_image docker "${FABRICA_TEST_DOCKER_SOCKET:-}"
ensure_image podman "${FABRICA_TEST_PODMAN_SOCKET:-}"
ensure_image podman-rootless "${FABRICA_TEST_PODMAN_ROOTLESS_SOCKET:-}"
