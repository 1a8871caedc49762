"""A client of any language server over its standard streams: enough of an editor to measure and to test with."""

import json
import os
import select
import subprocess
import time
from pathlib import Path


class Server:
    """One server over its standard streams; every wait has a deadline."""

    def __init__(self, command, folder, settings, environment=None, **capabilities):
        """`capabilities` are added to those of `textDocument`, `workspace` and `window`."""
        self.settings = settings
        self.version = 0
        self.identity = 0
        self.pending = b""
        self.versioned = False
        self.requests = []
        self.published = {}
        begun = time.perf_counter()
        # An agent of whoever runs this must not be met, unless it is asked for.
        environment = environment or {**os.environ, "PDEV_SOCKET_DIR": str(folder / "no-agent")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        root = folder.as_uri()
        self.ask(
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
        self.started_in = (time.perf_counter() - begun) * 1000
        self.tell("initialized", {})
        self.tell("workspace/didChangeConfiguration", {"settings": settings})

    def send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def tell(self, method, params):
        self.send({"method": method, "params": params})

    def receive(self, deadline):
        while True:
            head, found, rest = self.pending.partition(b"\r\n\r\n")
            if found:
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                if len(rest) >= length:
                    self.pending = rest[length:]
                    return json.loads(rest[:length])
            left = deadline - time.perf_counter()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("the server is silent")
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError("the server is gone")
            self.pending += chunk

    def take(self, wanted, seconds=60):
        deadline = time.perf_counter() + seconds
        while True:
            message = self.receive(deadline)
            if "method" in message and "id" in message:
                self.answer(message)
                self.requests.append(message["method"])
            elif message.get("method") == "textDocument/publishDiagnostics":
                self.published[message["params"]["uri"]] = message["params"]["diagnostics"]
            if wanted(message):
                return message

    def answer(self, message):
        result = None
        if message["method"] == "workspace/configuration":
            result = [self.settings.get(item.get("section", ""), {}) for item in message["params"]["items"]]
        self.send({"id": message["id"], "result": result})

    def begin(self, method, params):
        """Asks without waiting; `end` takes the whole answer."""
        self.identity += 1
        self.send({"id": self.identity, "method": method, "params": params})
        return self.identity

    def end(self, identity):
        return self.take(lambda message: message.get("id") == identity and "method" not in message)

    def ask(self, method, params):
        return self.end(self.begin(method, params)).get("result")

    def open(self, uri, text):
        self.version += 1
        document = {"uri": uri, "languageId": "yaml", "version": self.version, "text": text}
        self.tell("textDocument/didOpen", {"textDocument": document})
        return self.diagnostics(uri)

    def change(self, uri, line, character, end, text):
        self.version += 1
        place = {"start": {"line": line, "character": character}, "end": {"line": line, "character": end}}
        document = {"uri": uri, "version": self.version}
        self.tell("textDocument/didChange", {"textDocument": document, "contentChanges": [{"range": place, "text": text}]})

    def diagnostics(self, uri):
        """Those of the newest version; a server that sends no versions is believed after its next answer."""

        def newest(message):
            params = message.get("params", {})
            return (
                message.get("method") == "textDocument/publishDiagnostics"
                and params["uri"] == uri
                and params.get("version") in (None, self.version)
            )

        params = self.take(newest)["params"]
        self.versioned = "version" in params
        return params["diagnostics"]

    def again(self, uri):
        """What was published last."""
        return self.published[uri]

    def await_request(self, method):
        """The next question of this kind that the server asks, or has asked since the last look."""
        if method not in self.requests:
            self.take(lambda message: message.get("method") == method)
        self.requests.clear()

    def quiet(self, seconds):
        """Waits until a server that sends no versions has nothing more to say of older texts."""
        try:
            while True:
                message = self.receive(time.perf_counter() + seconds)
                if "method" in message and "id" in message:
                    self.answer(message)
        except TimeoutError:
            pass

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self):
        self.process.kill()
        self.process.wait()
