"""A program that runs longer than a lease, as `pdev run --as` starts it.

usage: long_running.py CLOUD FOLDER
Writes one line of JSON into FOLDER/seen for each lease it was given, until FOLDER/stop is there. A child that it starts
asks too. Says on standard output what its environment shows of a credential.
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

    def ask():
        credentials.refresh(google.auth.transport.requests.Request())
        return credentials.token, type(credentials).__module__, project

    return ask


def azure():
    import azure.identity

    return lambda: (azure.identity.DefaultAzureCredential().get_token("https://vault.azure.net/.default").token, "", "")


ask = {"aws": aws, "google": google, "azure": azure}[cloud]()
if len(sys.argv) > 3:
    print(json.dumps(ask()))
    sys.exit()
print(json.dumps({name: value for name, value in os.environ.items() if "canary" in value}), flush=True)
print(subprocess.check_output([sys.executable, *sys.argv, "child"], text=True), flush=True)
last = None
while not os.path.exists(os.path.join(folder, "stop")):
    try:
        now = ask()
    except Exception as error:
        now = ("", type(error).__name__, "")
    if now != last:
        with open(os.path.join(folder, "seen"), "a") as file:
            file.write(json.dumps(now) + "\n")
        last = now
    time.sleep(0.2)
