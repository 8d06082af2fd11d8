#!/usr/bin/env bash
# One node: everything in it dies with this process, which is the first one of its own process namespace.
# FOLDER has its configuration, PROGRAMS kubelet and kube-proxy, LOGS is where it writes; NAME and ADDRESS are its own.
set -euo pipefail

mount --make-rprivate /
mount -t proc proc /proc
# The bridge plugin switches it on with the node's first pod; Services at a node without one need it as well.
echo 1 >/proc/sys/net/ipv4/ip_forward
# What a reboot empties, and what it keeps.
rm -rf "$FOLDER/fs/run"
for folder in /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers /run/containerd /run/netns /run/cni; do
    mkdir -p "$folder" "$FOLDER/fs$folder"
    mount --bind "$FOLDER/fs$folder" "$folder"
done
mount --make-rshared /

until ip -4 address show dev eth0 2>/dev/null | grep -q inet; do sleep 0.1; done

containerd --config "$FOLDER/containerd.toml" >>"$LOGS/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done

"$PROGRAMS/kube-proxy" --kubeconfig="$FOLDER/proxy.kubeconfig" --hostname-override="$NAME" --proxy-mode=iptables \
    --conntrack-max-per-core=0 --cluster-cidr="$PODS" >>"$LOGS/kube-proxy.log" 2>&1 &
run_kubelet() {
    "$PROGRAMS/kubelet" --kubeconfig="$FOLDER/kubelet.kubeconfig" --config="$FOLDER/kubelet.yaml" --hostname-override="$NAME" \
        --node-ip="$ADDRESS" --container-runtime-endpoint=unix:///run/containerd/containerd.sock >>"$LOGS/kubelet.log" 2>&1
}
# Again where it ends, as systemd does: containerd takes no orders until it has looked through what a power cut left.
for _ in $(seq 30); do run_kubelet || sleep 1; done &
# A node whose kubelet or containerd has ended is no node.
wait -n
