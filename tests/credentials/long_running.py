"""A program that runs longer than a lease, for `pdev run --as`.

usage: long_running.py CLOUD FOLDER [child]
Appends one line of JSON to FOLDER/seen for each new lease, until FOLDER/stop exists. It also starts a child, which
requests one lease. Prints the environment variables that contain a credential, and the lease of the child.
"""

import json
import os
import subprocess
import sys
import time

cloud, folder = sys.argv[1], sys.argv[2]


def aws():
    import botocore.session

    session = botocore.session.get_session()
    credentials = session.get_credentials()
    region = session.get_config_variable("region")
    return lambda: (credentials.get_frozen_credentials().access_key, credentials.method, region)


def google():
    import google.auth
    import google.auth.transport.requests

    credentials, project = google.auth.default()

    def request_lease():
        credentials.refresh(google.auth.transport.requests.Request())
        return credentials.token, type(credentials).__module__, project

    return request_lease


def azure():
    import azure.identity

    return lambda: (azure.identity.DefaultAzureCredential().get_token("https://vault.azure.net/.default").token, "", "")


request_lease = {"aws": aws, "google": google, "azure": azure}[cloud]()
if len(sys.argv) > 3:
    print(json.dumps(request_lease()))
    sys.exit()
print(json.dumps({name: value for name, value in os.environ.items() if "canary" in value}), flush=True)
print(subprocess.check_output([sys.executable, *sys.argv, "child"], text=True), flush=True)
last = None
while not os.path.exists(os.path.join(folder, "stop")):
    try:
        lease = request_lease()
    except Exception as error:
        lease = ("", type(error).__name__, "")
    if lease != last:
        with open(os.path.join(folder, "seen"), "a") as file:
            file.write(json.dumps(lease) + "\n")
        last = lease
    # The SDKs report no renewal, so poll.
    time.sleep(0.2)
