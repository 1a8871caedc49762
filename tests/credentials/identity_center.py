"""IAM Identity Center as its API references describe it: OIDC (register, device and browser flow, rotating refresh tokens
with reuse detection) and the portal's role credentials. `botocore_client.py` proves it with AWS's own client.

usage: identity_center.py PORT-FILE [SECONDS]      the second one is how long a registered client lasts
For tests: GET /test/confirm?user_code=C (the person), /test/expire (all access tokens end), /test/stats.
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

LASTS = int(sys.argv[2]) if len(sys.argv) > 2 else 90 * 86400
clients, devices, codes, access, refresh, spent = {}, {}, {}, set(), {}, set()
stats = {"refreshed": 0, "roles": 0, "reuse": 0, "slowed": 0}


class Refused(Exception):
    def __init__(self, status, kind, error, description):
        self.status, self.kind = status, kind
        self.body = {"error": error, "error_description": description}


def client(body):
    if clients.get(body.get("clientId")) != body.get("clientSecret"):
        raise Refused(401, "InvalidClientException", "invalid_client", "Client authentication failed")


def tokens():
    token, more = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    access.add(token)
    refresh[more] = token
    return {"accessToken": token, "tokenType": "Bearer", "expiresIn": 3600, "refreshToken": more}


def by_device(body):
    device = devices.get(body["deviceCode"])
    if device is None:
        raise Refused(400, "InvalidGrantException", "invalid_grant", "Invalid device code")
    if not device["slowed"]:
        device["slowed"] = True
        stats["slowed"] += 1
        raise Refused(400, "SlowDownException", "slow_down", "Slow down")
    if not device["confirmed"]:
        raise Refused(400, "AuthorizationPendingException", "authorization_pending", "Pending")
    del devices[body["deviceCode"]]
    return tokens()


def by_code(body):
    code = codes.pop(body["code"], None)
    digest = hashlib.sha256(body["codeVerifier"].encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if code is None or code["challenge"] != challenge or code["redirect"] != body["redirectUri"]:
        raise Refused(400, "InvalidGrantException", "invalid_grant", "Invalid code")
    return tokens()


def by_refresh(body):
    old = body["refreshToken"]
    if old in spent:
        stats["reuse"] += 1
        refresh.clear()
    if old not in refresh:
        raise Refused(400, "InvalidGrantException", "invalid_grant", "Invalid refresh token")
    access.discard(refresh.pop(old))
    spent.add(old)
    stats["refreshed"] += 1
    return tokens()


GRANTS = {
    "urn:ietf:params:oauth:grant-type:device_code": by_device,
    "authorization_code": by_code,
    "refresh_token": by_refresh,
}


class Center(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.answer(200, {"/client/register": self.register, "/device_authorization": self.device,
                              "/token": self.token}[self.path](body))
        except Refused as refused:
            self.answer(refused.status, refused.body, {"x-amzn-ErrorType": refused.kind})

    def register(self, body):
        assert body["clientType"] == "public" and body["clientName"]
        assert all(uri == "http://127.0.0.1/oauth/callback" for uri in body.get("redirectUris", []))
        identity = secrets.token_urlsafe(12)
        clients[identity] = secrets.token_urlsafe(40)
        return {"clientId": identity, "clientSecret": clients[identity], "clientIdIssuedAt": int(time.time()),
                "clientSecretExpiresAt": int(time.time()) + LASTS}

    def device(self, body):
        client(body)
        assert body["startUrl"].endswith("/start")
        code, shown = secrets.token_urlsafe(24), secrets.token_hex(4).upper()
        devices[code] = {"shown": shown, "confirmed": False, "slowed": False}
        root = f"http://{self.headers['Host']}"
        return {"deviceCode": code, "userCode": shown, "verificationUri": root + "/", "expiresIn": 600, "interval": 1,
                "verificationUriComplete": f"{root}/test/confirm?user_code={shown}"}

    def token(self, body):
        client(body)
        return GRANTS[body["grantType"]](body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/authorize":
            assert query["response_type"] == "code" and query["code_challenge_method"] == "S256"
            assert query["scopes"] == "sso:account:access" and query["client_id"] in clients
            code = secrets.token_urlsafe(24)
            codes[code] = {"challenge": query["code_challenge"], "redirect": query["redirect_uri"]}
            back = query["redirect_uri"] + "?" + urllib.parse.urlencode({"code": code, "state": query["state"]})
            self.answer(302, {}, {"Location": back})
        elif url.path == "/federation/credentials":
            self.role(query)
        elif url.path == "/test/confirm":
            for device in devices.values():
                device["confirmed"] |= device["shown"] == query["user_code"]
            self.answer(200, {})
        elif url.path == "/test/expire":
            access.clear()
            self.answer(200, {})
        else:
            self.answer(200, stats)

    def role(self, query):
        if self.headers.get("x-amz-sso_bearer_token") not in access:
            self.answer(401, {"message": "Session token not found or invalid"}, {"x-amzn-ErrorType": "UnauthorizedException"})
        elif query["role_name"] != "Developer":
            self.answer(403, {"message": "No access"}, {"x-amzn-ErrorType": "ForbiddenException"})
        else:
            stats["roles"] += 1
            self.answer(200, {"roleCredentials": {
                "accessKeyId": "ASIA" + query["account_id"], "secretAccessKey": "sso-canary-" + str(stats["roles"]),
                "sessionToken": "sso-canary-token", "expiration": int(time.time() + 3600) * 1000}})

    def answer(self, status, body, headers=()):
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
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
