"""The kernel: desired minus actual, applied and verified.

``plan``: the kernel plan as a pure function. ``sync``: the task that keeps the kernel equal to it. ``dataplane``:
what was written last, with resync, apply and verify; ``parts``, ``pods`` and ``resync`` are its host's objects,
insides of pods and routes to other nodes. ``events``: the kernel's reports of changes. ``drift``: what other programs
changed. ``macs``: the MACs of Galactic's devices. ``host_settings``: sysctls of the host that stop packets.
``setup``: kernel, underlay and packet filter as the plan needs them, by way of ``adapter``, the host. ``neighbours``:
whether attached pods answer ARP and neighbour discovery. ``path_mtu``: links on the way to other nodes that are
smaller than the underlay's interface. ``gateway_routes``: default routes to VPCGateways' exits, and the exit on this
node; ``gateway_shares``: the exits' parts of a hash's range; ``gateway_rules``, ``published_rules`` and
``connection_rules``: their rules, and ``gateway_filter``, the task that keeps them; ``gateway_health``: whether exits
answer.
``fragments``: packets of VPCs are not reassembled on the host.
``counter_reader``: counters of host ends, added to the usage.
``flows``: a pod's packets and their verdicts, on demand. ``probes``: next hops and echo requests, on demand.
``sandbox``: a pod's network namespace. ``memory``: a kernel in memory, for tests.
"""
