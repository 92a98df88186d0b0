"""Access to the Linux kernel of a node: netlink (pyroute2, and packed messages of its own), sysctls, the packet filter.

objects                kernel objects as values, and the interface ``Kernel``
kernel                 ``LinuxKernel``, the real one: devices, routes, sysctls and neighbours
devices                links, addresses and rules, through pyroute2
fib_rules              the order of policy rules: VRFs' tables before ``local``
devconf                sysctls of devices, by netlink
routes, netlink        routes, as packed netlink messages
events                 notifications of changes by other programs
nft_events             those of transactions of nf_tables
notifications          what both have in common: a netlink socket, read in one go
neighbours, echo       ARP and neighbour discovery; echo requests from inside a namespace
kept_neighbours        neighbours that work while the kernel's table of them is full
link_counters, capture traffic that devices counted; a pod's packets at every device
liveness               echo requests to other nodes, again and again
too_big                packet-too-big messages about SRv6 packets, and their answers
namespace              network namespaces, and sockets inside them
sysctl, underlay       sysctls; the interface of the SRv6 packets
local_routes           the kernel's own routes to the host's addresses
route_lookup           the route that the kernel chooses for a packet
preflight              what this kernel supports, tried in a temporary namespace
firewall               the packet filter's rules; ``iptables`` is the process that writes them
legacy, nft            its two backends
nftables, kept_table   tables of nftables of Galactic's own, and the program ``nft``; one that stays as written
connections            entries of connection tracking that lead to hosts which serve no more
foreign_chains         chains of other programs that drop packets of VPCs
precedence             rules of other programs ahead of Galactic's jumps
foreign_rules          the rules of such chains, as conditions on a packet
firewall_fingerprint   the chains as the kernel has them, and a fingerprint
readback               the rules as the kernel applies them
drop_counters          the packets that they dropped
"""
