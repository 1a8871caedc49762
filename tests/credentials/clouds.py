"""Token endpoints of Google, Microsoft Entra and HashiCorp Vault, written from their references. They reject invalid
requests. `clouds_clients.py` checks them with google-auth, azure-identity (which needs TLS) and hvac.

usage: clouds.py FOLDER   -> writes FOLDER/port, FOLDER/tls-port, FOLDER/ca.pem, FOLDER/key.json, FOLDER/user.json
For tests: GET /test/stats. POST /test/grant adds the read-only scope to the user's consent. POST /test/revoke revokes
the user's refresh token.
"""

import base64
import datetime
import http.server
import json
import os
import secrets
import ssl
import sys
import threading
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

folder = sys.argv[1]
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
stats = {"assertions": 0, "refreshes": 0, "reuse": 0, "impersonated": 0, "exchanged": 0, "entra": 0, "vault": 0}
refresh = {"current": "canary-refresh-0", "spent": set()}
issued = set()
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
READ_ONLY = SCOPE + ".read-only"
# The scopes with the user's consent. gcloud requests only the first one.
granted = [SCOPE]
# The issued access tokens, in order: kind of credential and scopes.
issued_scopes = []
EMAIL = "robot@shop.iam.gserviceaccount.com"
AUDIENCE = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
GRANT, TYPE = "urn:ietf:params:oauth:grant-type:", "urn:ietf:params:oauth:token-type:"


class Rejected(Exception):
    def __init__(self, status, body):
        self.status, self.body = status, body


def oauth(error, description, status=400):
    return Rejected(status, {"error": error, "error_description": description})


def token(kind):
    value = f"canary-{kind}-{secrets.token_hex(8)}"
    issued.add(value)
    return value


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def id_token(audience):
    now = int(time.time())
    claims = {"iss": "https://accounts.google.com", "aud": audience, "iat": now, "exp": now + 3600, "sub": "1"}
    parts = [{"alg": "RS256", "kid": "google"}, claims | {"email": EMAIL, "canary": secrets.token_hex(8)}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + ".c2ln"


def exchange_assertion(form):
    head, claims, signature = form["assertion"].split(".")
    try:
        signed = f"{head}.{claims}".encode()
        key.public_key().verify(decoded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
    except Exception:
        raise oauth("invalid_grant", "Invalid JWT Signature.") from None
    header, claims = json.loads(decoded(head)), json.loads(decoded(claims))
    now = time.time()
    if header["alg"] != "RS256" or header.get("kid") not in (None, "k1"):
        raise oauth("invalid_grant", "Invalid JWT header")
    if claims["aud"] != "https://oauth2.googleapis.com/token" or claims["iss"] != EMAIL or abs(claims["iat"] - now) > 300:
        raise oauth("invalid_grant", "Invalid JWT: check your iat, exp and aud")
    if not claims["iat"] < claims["exp"] <= claims["iat"] + 3600:
        raise oauth("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes)")
    if "target_audience" in claims:
        return {"id_token": id_token(claims["target_audience"])}
    if claims["scope"] not in (SCOPE, READ_ONLY):
        raise oauth("invalid_scope", "no scope")
    issued_scopes.append(["key", claims["scope"]])
    stats["assertions"] += 1
    return {"access_token": token("key"), "expires_in": 3599, "token_type": "Bearer"}


def refresh_tokens(form):
    if (form["client_id"], form["client_secret"]) != ("c1", "canary-client"):
        raise oauth("invalid_client", "The OAuth client was not found.", 401)
    if form["refresh_token"] != refresh["current"]:
        stats["reuse"] += form["refresh_token"] in refresh["spent"]
        raise oauth("invalid_grant", "Token has been expired or revoked.")
    scope = form.get("scope", " ".join(granted))
    if not set(scope.split(" ")) <= set(granted):
        raise oauth("invalid_scope", "Some requested scopes were invalid.")
    issued_scopes.append(["user", scope])
    stats["refreshes"] += 1
    refresh["spent"].add(refresh["current"])
    refresh["current"] = f"canary-refresh-{stats['refreshes']}"
    response = {"access_token": token("user"), "expires_in": 3599, "token_type": "Bearer", "scope": scope}
    return response | {"refresh_token": refresh["current"]}


def google_token(form, _):
    if form["grant_type"] == GRANT + "jwt-bearer":
        return exchange_assertion(form)
    if form["grant_type"] == "refresh_token":
        return refresh_tokens(form)
    raise oauth("unsupported_grant_type", "Invalid grant_type")


def google_sts(form, _):
    request = (form["grant_type"], form["audience"], form["requested_token_type"], form["subject_token_type"])
    if request != (GRANT + "token-exchange", AUDIENCE, TYPE + "access_token", TYPE + "jwt"):
        raise oauth("invalid_request", "Invalid value for audience or a type")
    if form["subject_token"] != "subject-of-another":
        raise oauth("invalid_grant", "The given credential is rejected by the attribute condition.")
    issued_scopes.append(["fed", form.get("scope", "")])
    stats["exchanged"] += 1
    response = {"access_token": token("federated"), "expires_in": 3600, "token_type": "Bearer"}
    return response | {"issued_token_type": TYPE + "access_token"}


def impersonate(body, headers):
    if headers["Authorization"].removeprefix("Bearer ") not in issued:
        raise Rejected(401, {"error": {"code": 401, "message": "Request had invalid authentication credentials."}})
    if not body["scope"] or not body["lifetime"].endswith("s"):
        raise Rejected(400, {"error": {"code": 400, "message": "Request contains an invalid argument."}})
    issued_scopes.append(["robot", " ".join(body["scope"]), body["lifetime"]])
    stats["impersonated"] += 1
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=int(body["lifetime"][:-1]))
    return {"accessToken": token("impersonated"), "expireTime": end.strftime("%Y-%m-%dT%H:%M:%SZ")}


def impersonate_id(body, headers):
    if headers["Authorization"].removeprefix("Bearer ") not in issued or not body["includeEmail"]:
        raise Rejected(401, {"error": {"code": 401, "message": "Request had invalid authentication credentials."}})
    return {"token": id_token(body["audience"])}


def denied(_, __):
    message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
    raise Rejected(403, {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}})


def entra(form, _):
    if (form["grant_type"], form["client_id"]) != ("client_credentials", "app"):
        raise oauth("unauthorized_client", "AADSTS700016: Application not found in the directory.")
    assertion = (form.get("client_assertion_type"), form.get("client_assertion"))
    is_valid_assertion = assertion == ("urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "subject-of-another")
    if form.get("client_secret") != "canary-entra" and not is_valid_assertion:
        raise oauth("invalid_client", "AADSTS7000215: Invalid client secret provided.", 401)
    if not form["scope"].endswith("/.default"):
        raise oauth("invalid_scope", "AADSTS1002012: The provided value for scope is not valid.")
    stats["entra"] += 1
    stats[form["scope"]] = stats.get(form["scope"], 0) + 1
    return {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token("entra")}


def approle(body, _):
    if (body["role_id"], body["secret_id"]) != ("role", "canary-secret-id"):
        raise Rejected(400, {"errors": ["invalid role or secret ID"]})
    return {"auth": {"client_token": token("vault"), "lease_duration": 1800, "renewable": True}}


def vault(path):
    def read(_, headers):
        if headers["X-Vault-Token"] != "canary-root" and headers["X-Vault-Token"] not in issued:
            raise Rejected(403, {"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]})
        stats["vault"] += 1
        data = {
            "aws/creds/deploy": {"access_key": "AKIAV", "secret_key": "canary-v", "security_token": "canary-vt"},
            "database/creds/shop": {"username": "v-shop", "password": "canary-db"},
            "kv/data/shop": {"data": {"token": "canary-kv"}, "metadata": {"version": 1}},
        }
        if path not in data:
            raise Rejected(404, {"errors": []})
        return {"request_id": "r", "lease_id": path, "lease_duration": 2764800, "renewable": True, "data": data[path]}

    return read


POSTS = {
    "/token": google_token,
    "/v1/token": google_sts,
    f"/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken": impersonate,
    f"/v1/projects/-/serviceAccounts/{EMAIL}:generateIdToken": impersonate_id,
    "/v1/projects/-/serviceAccounts/other@shop.iam.gserviceaccount.com:generateAccessToken": denied,
    "/tenant/oauth2/v2.0/token": entra,
    "/v1/auth/approle/login": approle,
    "/test/grant": lambda *_: granted.append(READ_ONLY) or {},
    "/test/revoke": lambda *_: refresh.update(current=None) or {},
}


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def respond_with(self, route, body):
        try:
            self.respond(200, route(body, self.headers))
        except Rejected as rejected:
            self.respond(rejected.status, rejected.body)
        except (KeyError, ValueError, TypeError) as error:
            self.respond(400, {"error": "invalid_request", "error_description": f"missing or wrong: {error}"})

    def do_GET(self):
        if self.path.startswith("/tenant/v2.0/.well-known/openid-configuration"):
            base = f"https://localhost:{secure.server_port}/tenant"
            endpoints = {"token_endpoint": base + "/oauth2/v2.0/token", "authorization_endpoint": base + "/authorize"}
            return self.respond(200, endpoints | {"issuer": base + "/v2.0"})
        if self.path == "/test/stats":
            return self.respond(200, stats | {"issued_scopes": issued_scopes})
        return self.respond_with(vault(self.path.removeprefix("/v1/")), None)

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        if "json" in self.headers.get("Content-Type", ""):
            body = json.loads(text or "{}")
        else:
            body = dict(urllib.parse.parse_qsl(text, strict_parsing=bool(text)))
        route = POSTS.get(urllib.parse.unquote(self.path))
        return self.respond_with(route, body) if route else self.respond(404, {"errors": []})

    do_PUT = do_POST

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)


def url(path):
    return f"http://127.0.0.1:{server.server_port}{path}"


def tls_context():
    """Returns a TLS context with a new self-signed certificate."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = certificate.not_valid_before(now - datetime.timedelta(days=1))
    certificate = certificate.not_valid_after(now + datetime.timedelta(days=1))
    certificate = certificate.add_extension(names, False).sign(key, hashes.SHA256())
    with open(f"{folder}/ca.pem", "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
    with open(f"{folder}/tls.key", "w") as file:
        file.write(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/ca.pem", f"{folder}/tls.key")
    return context


form = serialization.PrivateFormat.PKCS8
pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
robot = {"type": "service_account", "private_key_id": "k1", "private_key": pem, "client_email": EMAIL}
user = {"type": "authorized_user", "client_id": "c1", "client_secret": "canary-client"}
for name, content in [
    ("key.json", robot | {"token_uri": url("/token")}),
    ("user.json", user | {"refresh_token": refresh["current"], "token_uri": url("/token")}),
]:
    with open(f"{folder}/{name}", "w") as file:
        json.dump(content, file)
secure = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
secure.socket = tls_context().wrap_socket(secure.socket, server_side=True)
threading.Thread(target=secure.serve_forever, daemon=True).start()
with open(f"{folder}/tls-port", "w") as file:
    file.write(str(secure.server_port))
# The caller waits for the file `port`, so write it last, and rename it so that it is never incomplete.
with open(f"{folder}/port.new", "w") as file:
    file.write(str(server.server_port))
os.rename(f"{folder}/port.new", f"{folder}/port")
server.serve_forever()
