"""IAM Identity Center, written from its API references: OIDC (registration, device and browser flow, rotating refresh
tokens with reuse detection) and the portal's role credentials. `botocore_client.py` checks it with AWS's own client.

usage: identity_center.py PORT-FILE [SECONDS]      SECONDS is the lifetime of a client registration
For tests: GET /test/confirm?user_code=C confirms a login, /test/expire expires all access tokens, /test/stats.
"""

import base64
import hashlib
import http.server
import json
import os
import secrets
import sys
import time
import urllib.parse

CLIENT_LIFETIME = int(sys.argv[2]) if len(sys.argv) > 2 else 90 * 86400
clients, devices, codes, access, refresh, spent = {}, {}, {}, set(), {}, set()
stats = {"refreshed": 0, "roles": 0, "reuse": 0, "slowed": 0}


class Rejected(Exception):
    def __init__(self, status, kind, error, description):
        self.status, self.kind = status, kind
        self.body = {"error": error, "error_description": description}


def check_client(body):
    if clients.get(body.get("clientId")) != body.get("clientSecret"):
        raise Rejected(401, "InvalidClientException", "invalid_client", "Client authentication failed")


def tokens():
    access_token, refresh_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    access.add(access_token)
    refresh[refresh_token] = access_token
    return {"accessToken": access_token, "tokenType": "Bearer", "expiresIn": 3600, "refreshToken": refresh_token}


def exchange_device_code(body):
    device = devices.get(body["deviceCode"])
    if device is None:
        raise Rejected(400, "InvalidGrantException", "invalid_grant", "Invalid device code")
    if not device["slowed"]:
        device["slowed"] = True
        stats["slowed"] += 1
        raise Rejected(400, "SlowDownException", "slow_down", "Slow down")
    if not device["confirmed"]:
        raise Rejected(400, "AuthorizationPendingException", "authorization_pending", "Pending")
    del devices[body["deviceCode"]]
    return tokens()


def exchange_code(body):
    code = codes.pop(body["code"], None)
    digest = hashlib.sha256(body["codeVerifier"].encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if code is None or code["challenge"] != challenge or code["redirect"] != body["redirectUri"]:
        raise Rejected(400, "InvalidGrantException", "invalid_grant", "Invalid code")
    return tokens()


def exchange_refresh_token(body):
    old = body["refreshToken"]
    # Reuse of a spent token may be theft, so all refresh tokens end.
    if old in spent:
        stats["reuse"] += 1
        refresh.clear()
    if old not in refresh:
        raise Rejected(400, "InvalidGrantException", "invalid_grant", "Invalid refresh token")
    access.discard(refresh.pop(old))
    spent.add(old)
    stats["refreshed"] += 1
    return tokens()


GRANTS = {
    "urn:ietf:params:oauth:grant-type:device_code": exchange_device_code,
    "authorization_code": exchange_code,
    "refresh_token": exchange_refresh_token,
}


class Center(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.respond(200, {"/client/register": self.register, "/device_authorization": self.device,
                              "/token": self.token}[self.path](body))
        except Rejected as rejected:
            self.respond(rejected.status, rejected.body, {"x-amzn-ErrorType": rejected.kind})

    def register(self, body):
        assert body["clientType"] == "public" and body["clientName"]
        assert all(uri == "http://127.0.0.1/oauth/callback" for uri in body.get("redirectUris", []))
        client_id = secrets.token_urlsafe(12)
        clients[client_id] = secrets.token_urlsafe(40)
        return {"clientId": client_id, "clientSecret": clients[client_id], "clientIdIssuedAt": int(time.time()),
                "clientSecretExpiresAt": int(time.time()) + CLIENT_LIFETIME}

    def device(self, body):
        check_client(body)
        assert body["startUrl"].endswith("/start")
        code, user_code = secrets.token_urlsafe(24), secrets.token_hex(4).upper()
        devices[code] = {"user_code": user_code, "confirmed": False, "slowed": False}
        root = f"http://{self.headers['Host']}"
        return {"deviceCode": code, "userCode": user_code, "verificationUri": root + "/", "expiresIn": 600, "interval": 1,
                "verificationUriComplete": f"{root}/test/confirm?user_code={user_code}"}

    def token(self, body):
        check_client(body)
        return GRANTS[body["grantType"]](body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/authorize":
            assert query["response_type"] == "code" and query["code_challenge_method"] == "S256"
            assert query["scopes"] == "sso:account:access" and query["client_id"] in clients
            code = secrets.token_urlsafe(24)
            codes[code] = {"challenge": query["code_challenge"], "redirect": query["redirect_uri"]}
            location = query["redirect_uri"] + "?" + urllib.parse.urlencode({"code": code, "state": query["state"]})
            self.respond(302, {}, {"Location": location})
        elif url.path == "/federation/credentials":
            self.role(query)
        elif url.path == "/test/confirm":
            for device in devices.values():
                device["confirmed"] |= device["user_code"] == query["user_code"]
            self.respond(200, {})
        elif url.path == "/test/expire":
            access.clear()
            self.respond(200, {})
        else:
            self.respond(200, stats)

    def role(self, query):
        if self.headers.get("x-amz-sso_bearer_token") not in access:
            self.respond(401, {"message": "Session token not found or invalid"}, {"x-amzn-ErrorType": "UnauthorizedException"})
        elif query["role_name"] != "Developer":
            self.respond(403, {"message": "No access"}, {"x-amzn-ErrorType": "ForbiddenException"})
        else:
            stats["roles"] += 1
            self.respond(200, {"roleCredentials": {
                "accessKeyId": "ASIA" + query["account_id"], "secretAccessKey": "sso-canary-" + str(stats["roles"]),
                "sessionToken": "sso-canary-token", "expiration": int(time.time() + 3600) * 1000}})

    def respond(self, status, body, headers=()):
        body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Center)
# The caller waits for this file, so rename it into place, or it could read an empty file.
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
