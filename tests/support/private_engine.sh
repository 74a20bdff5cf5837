#!/bin/sh
# Owns entering the root of a private Docker engine and running dockerd there. Runs as the first process of its own mount,
# network, IPC and process namespaces, so that nothing of it can outlive it or reach the host's engine.
#
# ROOT  folder with the programs, never written to
# WORK  folder of this engine: daemon.json, extra/ (laid over the root), shared/ (seen under the same path inside),
#       socket/ and data/ (of dockerd), new/ and scratch/ (mount points)
# VISIBLE  folders of the host that are seen under the same path inside, one a line
set -eu

new=$WORK/new
# The upper layer lies on a file system of its own: ROOT may be /, which contains WORK.
mount -t tmpfs -o mode=0755 tmpfs "$WORK/scratch"
mkdir "$WORK/scratch/upper" "$WORK/scratch/work"
mount -t overlay -o "lowerdir=$ROOT,upperdir=$WORK/scratch/upper,workdir=$WORK/scratch/work" overlay "$new"

mount -t proc proc "$new/proc"
# A new sysfs shows the interfaces of this network namespace; the host's would show the host's.
mount -t sysfs sysfs "$new/sys"
mount --rbind /sys/fs/cgroup "$new/sys/fs/cgroup"
mount --rbind /dev "$new/dev"
mount -t tmpfs tmpfs "$new/run"
mount -t tmpfs -o mode=1777 tmpfs "$new/tmp"
mkdir -p "$new$WORK/shared" "$new/run/engine" "$new/var/lib/docker" "$new/etc/docker"
mount --bind "$WORK/shared" "$new$WORK/shared"
mount --bind "$WORK/socket" "$new/run/engine"
mount --bind "$WORK/data" "$new/var/lib/docker"
printf '%s\n' "${VISIBLE:-}" | while read -r folder; do
  [ -z "$folder" ] || { mkdir -p "$new$folder" && mount --bind "$folder" "$new$folder"; }
done
cp "$WORK/daemon.json" "$new/etc/docker/daemon.json"
cp -a "$WORK/extra/." "$new/"
ip link set lo up

cd "$new"
mkdir -p old
pivot_root . old
umount -l /old

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# The shell stays the first process, because dockerd would not reap the orphans that come to it. While there is a file `down`
# beside the socket, an ended dockerd is a stopped service and not the end of the engine.
while :; do
  dockerd -H unix:///run/engine/docker.sock --pidfile /run/engine.pid </dev/null &
  wait $! || true
  [ -e /run/engine/down ] || break
  while [ -e /run/engine/down ]; do sleep 0.05; done
done
