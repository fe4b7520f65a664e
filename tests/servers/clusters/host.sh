#!/bin/sh
# The first process of a host: gives it a name and folders of its own, then becomes its SSH server.
#
#   host.sh NAME FOLDER SHARED_MEMORY KEPT...
#
# FOLDER holds sshd_config, hosts and resolv.conf. KEPT are folders that the host's own ones would hide; the host sees
# them where they are, and cannot write to them.
set -eu
name=$1 folder=$2 shared_memory=$3
shift 3

echo "$name" >/proc/sys/kernel/hostname
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || true
for file in hosts resolv.conf; do
  mount --bind "$folder/$file" "/etc/$file"
done

mount -t tmpfs -o mode=755 tmpfs /run
number=0
for path; do
  number=$((number + 1))
  mkdir -p "/run/kept/$number"
  mount --bind "$path" "/run/kept/$number"
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=700 tmpfs /root
mount -t tmpfs -o "mode=1777,size=$shared_memory" tmpfs /dev/shm
number=0
for path; do
  number=$((number + 1))
  mkdir -p "$path"
  mount --move "/run/kept/$number" "$path"
  mount -o remount,bind,ro "$path"
done
rm -rf /run/kept
mkdir -p /run/sshd

cd /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /usr/sbin/sshd -D -e -f "$folder/sshd_config"
