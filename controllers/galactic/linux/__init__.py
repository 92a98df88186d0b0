"""The only place that touches the kernel: netlink (pyroute2 and our own packed messages), sysctl, iptables."""
