#!/usr/bin/env bash
# Makes the file system of a Debian with the sandbox's packages, for machines that reach a mirror but no image registry.
# usage: scripts/base-image.sh OUTPUT.tar [MIRROR]
# Import it (docker import, podman import) and name it as BASE when runner/Dockerfile is built.
set -euo pipefail

packages=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/runner/packages.txt
output=${1:?usage: scripts/base-image.sh OUTPUT.tar [MIRROR]}
if [[ -s $output && $output -nt $packages ]]; then
    echo "$output is newer than the list of packages" >&2
    exit
fi
if ! command -v mmdebstrap >/dev/null; then
    echo "error: mmdebstrap is missing" >&2
    echo "hint: run scripts/install-packages.sh demo" >&2
    exit 1
fi

mkdir -p "$(dirname "$output")"
partial=$(mktemp -- "$output.XXXXXX")
trap 'rm -f -- "$partial"' EXIT
# Without /dev, whose nodes no rootless engine can make; every engine mounts its own. Documentation is for people.
mmdebstrap --variant=minbase --format=tar --skip=output/dev \
    --include="$(paste -sd, "$packages")" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$partial" ${2:+"$2"} >&2
chmod 644 "$partial"
mv -- "$partial" "$output"
