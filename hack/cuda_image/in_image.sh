#!/bin/sh
# Runs checks.py in an image. usage: in_image.sh ROOT PREPARED REPOSITORY CHECKS (in mount and network namespaces of its own)
set -eu
PATH=$PATH:/usr/sbin:/sbin
root=$1 prepared=$2 repository=$3 checks=$4
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/prove"
mount -t tmpfs tmpfs "$root/prove"
mkdir -p "$root/prove/repository" "$root/prove/checks"
cp -r "$prepared"/. "$root/prove/"
mount --bind "$repository" "$root/prove/repository"
mount --bind "$checks" "$root/prove/checks"
for folder in tmp var/cache/flash run/flash; do
    mount -t tmpfs -o mode=1777 tmpfs "$root/$folder"
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,ro,bind "$root"
ip link set lo up
exec chroot --userspec=65532:65532 "$root" /opt/venv/bin/python /prove/checks/checks.py
