"""A reverse proxy that logs each form of a request. usage: recorder.py PORT-FILE LOG TARGET-URL

The log has one line of JSON for each request, parsed by Python's standard library.
"""

import http.server
import json
import os
import sys
import urllib.parse
import urllib.request

port_file, log, target = sys.argv[1:4]


class Recorder(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(log, "a") as lines:
            lines.write(json.dumps(dict(urllib.parse.parse_qsl(body.decode()))) + "\n")
        names = ("authorization", "content-type", "x-amz-date", "x-amz-security-token")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        request = urllib.request.Request(target, data=body, headers=headers)
        try:
            response = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            response = error
        content = response.read()
        self.send_response(response.status)
        self.send_header("content-type", response.headers.get("content-type", "text/xml"))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
# The caller waits for this file, so rename it into place, or it could read an empty file.
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
