"""A node's device plugin: advertises /dev/kvm to the kubelet while KVM really works."""
