"""The floors: the minimum time for the same objects, without the overhead of a tool.

`Engine` calls the container engine on its socket, over one persistent connection per thread. `processes` starts the same
programs as the process runtime and probes each port every 10 ms.
"""

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

TICK = 0.010
LIMIT = 60


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=LIMIT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT)
        self.sock.connect(self.path)


class Engine:
    def __init__(self):
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if not host.startswith("unix://"):
            raise SystemExit(f"floor: DOCKER_HOST must be a unix socket, not `{host}`")
        self.path = host.removeprefix("unix://")
        self.local = threading.local()
        self.pool = ThreadPoolExecutor(10)

    def request(self, method, path, body=None, expected=(200, 201, 204, 304)):
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = UnixConnection(self.path)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, "/v1.41" + path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status not in expected:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:200]}")
        return json.loads(text) if text[:1] in (b"{", b"[") else None

    def up(self, names, image, chain=False):
        """Creates the network, creates and starts the containers. Returns when every service accepts connections."""
        network = self.request("POST", "/networks/create", {"Name": "pdev-bench-floor"})["Id"]

        def create(name):
            container = self.request("POST", f"/containers/create?name=pdev-bench-floor-{name}", {
                "Image": image, "ExposedPorts": {"8080/tcp": {}}, "Labels": {"pdev-bench": "floor"},
                "HostConfig": {"NetworkMode": network,
                               "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}})["Id"]
            if not chain:
                self.start(container)
            return container

        containers = list(self.pool.map(create, names))
        if chain:
            for container in containers:
                self.start(container)
        return network, containers

    def start(self, container):
        self.request("POST", f"/containers/{container}/start")
        details = self.request("GET", f"/containers/{container}/json")
        wait_until_answers(int(details["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]))

    def down(self, created):
        network, containers = created
        list(self.pool.map(lambda c: self.request("DELETE", f"/containers/{c}?force=1&v=1"), containers))
        self.request("DELETE", f"/networks/{network}")

    def list(self):
        """Lists the containers: the one request that an unchanged `up` needs at least."""
        return self.request("GET", "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22pdev-bench%3Dfloor%22%5D%7D")

    def image_bytes(self):
        return sum(image["Size"] for image in self.request("GET", "/images/json"))


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(12).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def wait_until_answers(port):
    deadline = time.monotonic() + LIMIT
    while not answers(port):
        if time.monotonic() > deadline:
            raise RuntimeError(f"port {port} does not answer after {LIMIT} s")
        time.sleep(TICK)


def free_ports(count):
    # Keep all sockets open until the end, or the kernel could return the same port twice.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def processes(program, count, chained, delay_ms):
    """Starts `count` programs, the first `chained` of them one by one. Returns the time until all accept connections."""
    started, ports = [], free_ports(count)

    def run(port):
        environment = {"PORT": str(port), "START_DELAY_MS": str(delay_ms)}
        started.append(subprocess.Popen([program], env=environment, stdin=subprocess.DEVNULL))
        return port

    begin = time.monotonic()
    waiting, chain, links = [run(port) for port in ports[chained:]], ports[:chained], []
    deadline = begin + LIMIT
    while waiting or chain or links:
        if not links and chain:
            links = [run(chain.pop(0))]
        waiting = [port for port in waiting if not answers(port)]
        links = [port for port in links if not answers(port)]
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all programs answer after {LIMIT} s")
        if waiting or links:
            time.sleep(TICK)
    took = time.monotonic() - begin
    for child in started:
        child.kill()
        child.wait()
    return took
