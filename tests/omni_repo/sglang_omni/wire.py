"""HTTP, as much of it as these servers need: one request for each connection, JSON as the answer."""

import json
import signal
import socket
import sys


def free_ports(count):
    """Ports that follow each other and are free now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as door:
            first = door.getsockname()[1]
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except (OSError, OverflowError):
            continue
        return list(range(first, first + count))


def ask(port, path):
    """Status and answer; OSError while nobody listens or when the server died."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        told = b"".join(iter(lambda: link.recv(65536), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    if not body:
        raise ConnectionResetError("Server disconnected")
    return int(head.split()[1]), json.loads(body)


def healthy(port):
    """Whether /health says so."""
    try:
        status, told = ask(port, "/health")
    except OSError:
        return False
    return status == 200 and told.get("status") == "healthy"


def serve(port, answer):
    """Answer until somebody sends SIGTERM or SIGINT; ``answer`` takes a path and gives status and value."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with socket.create_server(("127.0.0.1", port)) as door:
            print("INFO:     Application startup complete.")
            print(f"INFO:     Uvicorn running on http://127.0.0.1:{port} (Press CTRL+C to quit)", flush=True)
            while True:
                link, _ = door.accept()
                with link:
                    path = link.recv(65536).split()[1].decode()
                    status, value = answer(path)
                    head = f"HTTP/1.0 {status} OK\r\nContent-Type: application/json\r\n\r\n"
                    link.sendall((head + json.dumps(value)).encode())
    finally:
        print("INFO:     Finished server process", flush=True)
