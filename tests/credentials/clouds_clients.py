"""Checks clouds.py with the clouds' own clients, because they define what a correct server is.

usage: clouds_clients.py FOLDER
"""

import json
import sys

import azure.identity
import google.auth.transport.requests
import google.oauth2.credentials
import hvac
from google.auth import identity_pool
from google.oauth2 import service_account

folder = sys.argv[1]
port = open(f"{folder}/port").read()
base = f"http://127.0.0.1:{port}"
scopes = ["https://www.googleapis.com/auth/cloud-platform"]
request = google.auth.transport.requests.Request()

key = service_account.Credentials.from_service_account_file(f"{folder}/key.json", scopes=scopes)
key.refresh(request)
assert key.token.startswith("canary-key-"), "service account"

audience = service_account.IDTokenCredentials.from_service_account_file(
    f"{folder}/key.json", target_audience="https://run.example"
)
audience.refresh(request)
assert audience.token.count(".") == 2, "id token"

info = json.load(open(f"{folder}/user.json"))
user = google.oauth2.credentials.Credentials.from_authorized_user_info(info)
user._token_uri = info["token_uri"]
user.refresh(request)
assert user.token.startswith("canary-user-") and user.refresh_token == "canary-refresh-1", "authorized user"
info["refresh_token"] = user.refresh_token
json.dump(info, open(f"{folder}/user.json", "w"))

open(f"{folder}/subject", "w").write("subject-of-another")
account = "/v1/projects/-/serviceAccounts/robot@shop.iam.gserviceaccount.com:generateAccessToken"
pool = identity_pool.Credentials(
    audience="//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
    subject_token_type="urn:ietf:params:oauth:token-type:jwt",
    token_url=f"{base}/v1/token",
    service_account_impersonation_url=base + account,
    credential_source={"file": f"{folder}/subject"},
    scopes=scopes,
)
pool.refresh(request)
assert pool.token.startswith("canary-impersonated-"), "federation and impersonation"

entra = {
    "authority": f"https://localhost:{open(f'{folder}/tls-port').read()}",
    "disable_instance_discovery": True,
    "connection_verify": f"{folder}/ca.pem",
}
by_secret = azure.identity.ClientSecretCredential("tenant", "app", "canary-entra", **entra)
by_assertion = azure.identity.ClientAssertionCredential("tenant", "app", lambda: "subject-of-another", **entra)
for credential in (by_secret, by_assertion):
    assert credential.get_token("https://vault.azure.net/.default").token.startswith("canary-entra-"), "entra"

client = hvac.Client(url=base)
client.auth.approle.login(role_id="role", secret_id="canary-secret-id")
assert client.secrets.aws.generate_credentials("deploy")["data"]["access_key"] == "AKIAV", "vault"
print("passed")
