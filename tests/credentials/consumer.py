"""A service that uses real SDKs: boto3, google-auth and azure-identity. Each client lives as long as the process.

A response never contains a secret. It contains the number at the end of the secret, which the test's source increments.
"""

import http.server
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

CLIENTS = {}


def cached(factory):
    if factory.__name__ not in CLIENTS:
        CLIENTS[factory.__name__] = factory()
    return CLIENTS[factory.__name__]


def session():
    import boto3

    return boto3.Session(region_name="eu-central-1")


def google_credentials():
    import google.auth

    return google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])


def managed_identity():
    import azure.identity

    return azure.identity.ManagedIdentityCredential()


def default_azure():
    import azure.identity

    return azure.identity.DefaultAzureCredential()


def imds():
    from botocore.utils import InstanceMetadataFetcher, InstanceMetadataRegionFetcher  # noqa: F401

    base = os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"].rsplit("/", 2)[0]
    return InstanceMetadataFetcher(base_url=base + "/")


def number(secret):
    return int(secret.rsplit("-", 1)[1])


def aws():
    credentials = cached(session).get_credentials()
    frozen = credentials.get_frozen_credentials()
    return {"number": number(frozen.secret_key), "token": number(frozen.token), "method": credentials.method}


def aws_instance():
    credentials = cached(imds).retrieve_iam_role_credentials()
    return {"number": number(credentials["secret_key"]), "role": credentials["role_name"]}


def google():
    import google.auth.transport.requests

    credentials, project = cached(google_credentials)
    credentials.refresh(google.auth.transport.requests.Request())
    return {"number": number(credentials.token), "project": project, "email": credentials.service_account_email}


def google_id():
    import google.auth.transport.requests
    from google.auth import compute_engine, jwt

    request = google.auth.transport.requests.Request()
    credentials = compute_engine.IDTokenCredentials(request, "https://run.example", use_metadata_identity_endpoint=True)
    credentials.refresh(request)
    claims = jwt.decode(credentials.token, verify=False)
    return {"audience": claims["aud"], "email": claims["email"]}


def azure_resources():
    names = ("https://vault.azure.net", "https://storage.azure.com")
    tokens = {cached(managed_identity).get_token(name + "/.default").token for name in names}
    return {"different": len(tokens)}


def azure():
    token = cached(managed_identity).get_token("https://vault.azure.net/.default")
    return {"number": number(token.token), "seconds": token.expires_on - int(time.time())}


def azure_default():
    token = cached(default_azure).get_token("https://storage.azure.com/.default")
    return {"number": number(token.token)}


def fetch(url):
    """Requests a URL and returns its status. The body of a success may contain a secret, so it is dropped."""
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google", "Metadata": "true"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return {"status": response.status}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}
    except OSError as error:
        return {"status": 0, "body": str(error)}


ROUTES = {
    "/aws": aws,
    "/imds": aws_instance,
    "/google": google,
    "/google-id": google_id,
    "/azure": azure,
    "/azure-default": azure_default,
    "/azure-resources": azure_resources,
}


class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        try:
            if path == "/fetch":
                result = fetch(query)
            elif path == "/env":
                names = ("AWS_", "GCE_", "GOOGLE_", "IDENTITY_")
                result = {name: value for name, value in os.environ.items() if name.startswith(names)}
                result.pop("IDENTITY_HEADER", None)
            else:
                result = ROUTES[path]() if path in ROUTES else {}
            status = 200
        except Exception as error:  # noqa: BLE001 the test checks the message of every error
            result, status = {"error": f"{type(error).__name__}: {error}"}, 500
        body = json.dumps({"pid": os.getpid(), **result}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    # The first process of a container ignores SIGTERM unless it has a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Service).serve_forever()
