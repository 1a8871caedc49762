"""A minimal language client for any server, for tests and benchmarks."""

import json
import os
import select
import subprocess
import time
from pathlib import Path


class Server:
    """A server process, connected by its standard streams. Every wait has a deadline."""

    def __init__(self, command, folder, settings, environment=None, **capabilities):
        """Starts and initializes the server. `capabilities` extends those of `textDocument`, `workspace` and `window`."""
        self.settings = settings
        self.version = 0
        self.last_request_id = 0
        self.pending = b""
        self.versioned = False
        self.requests = []
        self.published = {}
        started = time.perf_counter()
        # By default, hide the agent of the user who runs this.
        environment = environment or {**os.environ, "PDEV_SOCKET_DIR": str(folder / "no-agent")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        root = folder.as_uri()
        self.request(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": root,
                "workspaceFolders": [{"uri": root, "name": "bench"}],
                "capabilities": {
                    "textDocument": {
                        "publishDiagnostics": {"versionSupport": True},
                        "completion": {"completionItem": {"snippetSupport": True}},
                        **capabilities.get("textDocument", {}),
                    },
                    "workspace": {
                        "configuration": True,
                        "didChangeConfiguration": {"dynamicRegistration": True},
                        **capabilities.get("workspace", {}),
                    },
                    "window": capabilities.get("window", {}),
                },
            },
        )
        self.started_in = (time.perf_counter() - started) * 1000
        self.notify("initialized", {})
        self.notify("workspace/didChangeConfiguration", {"settings": settings})

    def send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def notify(self, method, params):
        self.send({"method": method, "params": params})

    def receive(self, deadline):
        while True:
            head, separator, rest = self.pending.partition(b"\r\n\r\n")
            if separator:
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                if len(rest) >= length:
                    self.pending = rest[length:]
                    return json.loads(rest[:length])
            left = deadline - time.perf_counter()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("the server sent no message before the deadline")
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError("the server closed its output")
            self.pending += chunk

    def receive_until(self, matches, seconds=60):
        deadline = time.perf_counter() + seconds
        while True:
            message = self.receive(deadline)
            if "method" in message and "id" in message:
                self.reply(message)
                self.requests.append(message["method"])
            elif message.get("method") == "textDocument/publishDiagnostics":
                self.published[message["params"]["uri"]] = message["params"]["diagnostics"]
            if matches(message):
                return message

    def reply(self, message):
        result = None
        if message["method"] == "workspace/configuration":
            result = [self.settings.get(item.get("section", ""), {}) for item in message["params"]["items"]]
        self.send({"id": message["id"], "result": result})

    def send_request(self, method, params):
        """Sends a request and returns its id for `receive_response`."""
        self.last_request_id += 1
        self.send({"id": self.last_request_id, "method": method, "params": params})
        return self.last_request_id

    def receive_response(self, request_id):
        return self.receive_until(lambda message: message.get("id") == request_id and "method" not in message)

    def request(self, method, params):
        return self.receive_response(self.send_request(method, params)).get("result")

    def open(self, uri, text):
        self.version += 1
        document = {"uri": uri, "languageId": "yaml", "version": self.version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        return self.diagnostics(uri)

    def change(self, uri, line, character, end, text):
        self.version += 1
        changed = {"start": {"line": line, "character": character}, "end": {"line": line, "character": end}}
        document = {"uri": uri, "version": self.version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"range": changed, "text": text}]})

    def diagnostics(self, uri):
        """Waits for the diagnostics of the newest version. Without versions, the next diagnostics count as the newest."""

        def newest(message):
            params = message.get("params", {})
            return (
                message.get("method") == "textDocument/publishDiagnostics"
                and params["uri"] == uri
                and params.get("version") in (None, self.version)
            )

        params = self.receive_until(newest)["params"]
        self.versioned = "version" in params
        return params["diagnostics"]

    def last_diagnostics(self, uri):
        return self.published[uri]

    def wait_for_request(self, method):
        """Waits for a request of the server with this method, unless one has arrived since the previous call."""
        if method not in self.requests:
            self.receive_until(lambda message: message.get("method") == method)
        self.requests.clear()

    def drain(self, seconds):
        """Reads until the server is silent, so that diagnostics without a version cannot belong to older texts."""
        try:
            while True:
                message = self.receive(time.perf_counter() + seconds)
                if "method" in message and "id" in message:
                    self.reply(message)
        except TimeoutError:
            pass

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self):
        self.process.kill()
        self.process.wait()
