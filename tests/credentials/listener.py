"""A server that requires a credential and logs each one that it receives.

usage: listener.py PORT-FILE LOG-FILE [CERTIFICATE KEY]
"""

import http.server
import json
import os
import ssl
import sys

port_file, log_file, *tls = sys.argv[1:]


class Listener(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        authorization = self.headers.get("Authorization")
        with open(log_file, "a") as log:
            log.write(f"{self.command} {self.path} {authorization}\n")
        if authorization is None:
            self.respond(401, {"errors": [{"code": "UNAUTHORIZED"}]}, {"WWW-Authenticate": 'Basic realm="test"'})
        elif self.path == "/index/config.json":
            root = f"http://{self.headers['Host']}"
            self.respond(200, {"dl": root + "/dl", "api": root, "auth-required": True})
        elif self.path == "/version":
            self.respond(200, {"major": "1", "minor": "30", "gitVersion": "v1.30.0"})
        else:
            self.respond(404, {"errors": [{"code": "NAME_UNKNOWN"}]})

    do_HEAD = do_GET

    def respond(self, status, body, headers=()):
        body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
# The caller waits for this file, so rename it into place, or it could read an empty file.
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
