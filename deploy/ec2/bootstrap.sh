#!/usr/bin/env bash
# Makes an EC2 instance (Ubuntu 24.04 or Debian 12) a node of a k3s cluster for osworld-env. Safe to run again.
#   bootstrap.sh server                        the first node; prints what the others need
#   bootstrap.sh agent https://SERVER:6443     another node; reads the cluster's token from K3S_TOKEN
# Environment: MAX_PODS (110), POD_MAX_PIDS (4096), K3S_VERSION (v1.34.4+k3s1), K3S_TOKEN.
set -euo pipefail

readonly K3S_VERSION=${K3S_VERSION:-v1.34.4+k3s1}
readonly MAX_PODS=${MAX_PODS:-110}
readonly POD_MAX_PIDS=${POD_MAX_PIDS:-4096} # a fork bomb is bounded by its pod
readonly METADATA=http://169.254.169.254/latest

say() { printf '==> %s\n' "$*"; }
fail() { printf 'BOOTSTRAP FAILED: %s\n' "$*" >&2; exit 1; }

metadata() { # one path of the instance metadata service, version 2; empty outside of EC2
    local token
    token=$(curl -fsS -m 2 -X PUT "$METADATA/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 60') || return 0
    curl -fsS -m 2 -H "X-aws-ec2-metadata-token: $token" "$METADATA/$1" || return 0
}

check_kvm() {
    local module
    for module in kvm_intel kvm_amd; do # not "kvm": the device is the processor's own module's
        modprobe "$module" 2>/dev/null && echo "$module" >/etc/modules-load.d/osworld-kvm.conf
    done
    if [ -c /dev/kvm ]; then
        say "KVM: /dev/kvm is there"
        # k3s gives a pod's user the device as its own (--nonroot-devices); the host's mode is for tools of the host.
        echo 'KERNEL=="kvm", MODE="0660", GROUP="kvm"' >/etc/udev/rules.d/99-osworld-kvm.rules
        return
    fi
    say "KVM: none on this $(metadata meta-data/instance-type || echo machine). Virtual machines would run under emulation and"
    say "     boot for 20 to 40 minutes. Take an instance with nested virtualization (docs/ec2.md) or a .metal one;"
    say "     pools of xvfb desktops need no KVM."
}

install_k3s() { # role, further arguments
    local role=$1
    shift
    say "k3s $K3S_VERSION: installing as $role"
    curl -fsSL --retry 5 https://get.k3s.io -o /tmp/install-k3s.sh
    local -a arguments=("$role" --nonroot-devices "--kubelet-arg=max-pods=$MAX_PODS" "--kubelet-arg=pod-max-pids=$POD_MAX_PIDS" "$@")
    [ -c /dev/kvm ] && arguments+=(--node-label osworld.dev/kvm-node=true)
    INSTALL_K3S_VERSION=$K3S_VERSION sh /tmp/install-k3s.sh "${arguments[@]}"
}

# A node that is silent for so long is lost, and its envs move. Kubernetes' own 50 s, and up to twice the 5 s between two
# looks, are a long time for a batch that waits.
LOST_NODES=(
    "--kube-controller-manager-arg=node-monitor-grace-period=${NODE_GRACE_S:-20}s"
    "--kube-controller-manager-arg=node-monitor-period=${NODE_PERIOD_S:-1}s"
)

prepare_cache() { # env pods share images and templates there (spec.cache.hostPath); 1001 is their user
    install -d -o 1001 -g 1001 -m 0770 /var/lib/osworld-cache
}

[ "$(id -u)" = 0 ] || fail "run as root"
command -v curl >/dev/null || fail "install the package curl"
check_kvm
prepare_cache
case ${1:-} in
server)
    install_k3s server --disable=traefik --write-kubeconfig-mode=0640 "${LOST_NODES[@]}"
    say "ready. Further nodes:"
    say "  K3S_TOKEN=\$(sudo cat /var/lib/rancher/k3s/server/node-token) bootstrap.sh agent https://$(hostname -I | cut -d' ' -f1):6443"
    ;;
agent)
    [ -n "${2:-}" ] || fail "say where the server is: agent https://SERVER:6443"
    [ -n "${K3S_TOKEN:-}" ] || fail "set K3S_TOKEN to the content of the server's /var/lib/rancher/k3s/server/node-token"
    export K3S_URL=$2 K3S_TOKEN
    install_k3s agent
    say "ready"
    ;;
*) fail "say what this node is: server, or agent https://SERVER:6443" ;;
esac
