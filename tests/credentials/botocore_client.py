"""Checks `identity_center.py` with AWS's own client, because tests of pdev against a wrong server would prove nothing.

usage: botocore_client.py URL
"""

import sys
import urllib.request

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

url = sys.argv[1]
session = botocore.session.Session()
new_client = lambda service: session.create_client(service, region_name="eu-central-1", endpoint_url=url,
                                                   config=Config(signature_version=UNSIGNED))
oidc, portal = new_client("sso-oidc"), new_client("sso")
client = oidc.register_client(clientName="botocore", clientType="public", scopes=["sso:account:access"])
keys = {name: client[name] for name in ("clientId", "clientSecret")}
device = oidc.start_device_authorization(**keys, startUrl="https://x.awsapps.com/start")
grant = {"grantType": "urn:ietf:params:oauth:grant-type:device_code", "deviceCode": device["deviceCode"]}
for expected in (oidc.exceptions.SlowDownException, oidc.exceptions.AuthorizationPendingException):
    try:
        oidc.create_token(**keys, **grant)
        sys.exit(f"{expected} was expected")
    except expected:
        pass
urllib.request.urlopen(device["verificationUriComplete"]).read()
first = oidc.create_token(**keys, **grant)
second = oidc.create_token(**keys, grantType="refresh_token", refreshToken=first["refreshToken"])
role = portal.get_role_credentials(roleName="Developer", accountId="1", accessToken=second["accessToken"])
assert role["roleCredentials"]["accessKeyId"] == "ASIA1", role
for name, token, expected in (("Admin", second, "ForbiddenException"), ("Developer", first, "UnauthorizedException")):
    try:
        portal.get_role_credentials(roleName=name, accountId="1", accessToken=token["accessToken"])
        sys.exit(f"{expected} was expected")
    except portal.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == expected, error
try:
    oidc.create_token(**keys, grantType="refresh_token", refreshToken=first["refreshToken"])
    sys.exit("a spent refresh token was accepted")
except oidc.exceptions.InvalidGrantException:
    print("ok")
