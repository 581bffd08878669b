#!/bin/sh
# Make the root file system of the base image: Debian bookworm with Python 3.11 and nothing that an image can do without.
# usage: rootfs.sh OUTPUT.tar    (as root; debootstrap takes the mirror that it was built with)
set -eu
output=$1
root=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3 bookworm "$root"

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/locale/*
# Packages that are installed later need not bring these back.
printf 'path-exclude=/usr/share/%s/*\n' doc man info locale > "$root/etc/dpkg/dpkg.cfg.d/no-documents"

tar --create --numeric-owner --directory "$root" --file "$output" .
