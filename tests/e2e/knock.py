"""``knock.py listen PORT…`` answers TCP connections and UDP datagrams of both families on those ports, for ever.
``knock.py SECONDS tcp/ADDRESS/PORT …`` asks all of them at once, and writes those that answered.
"""

import selectors
import socket
import sys
import threading


def listen(ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    for port in ports:
        tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(("::", port))
        selector.register(tcp, selectors.EVENT_READ, "tcp")
        selector.register(udp, selectors.EVENT_READ, "udp")
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            opened = key.fileobj
            assert isinstance(opened, socket.socket)
            if key.data == "tcp":
                connection, _ = opened.accept()
                with connection:
                    connection.sendall(b"here")
            else:
                data, sender = opened.recvfrom(100)
                opened.sendto(data, sender)


def ask(target: str, seconds: float, answered: list[str]) -> None:
    protocol, address, port = target.split("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as opened:
        opened.settimeout(seconds)
        try:
            opened.connect((address, int(port)))
            if protocol == "udp":
                opened.send(b"here")
            if opened.recv(100) == b"here":
                answered.append(target)
        except OSError:
            pass


def main() -> None:
    if sys.argv[1] == "listen":
        listen([int(text) for text in sys.argv[2:]])
    answered: list[str] = []
    threads = [
        threading.Thread(target=ask, args=(text, float(sys.argv[1]), answered)) for text in sys.argv[2:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(" ".join(sorted(answered)) + "\n")


if __name__ == "__main__":
    main()
