"""Credential helpers and ten identities for the rows in `measure.py`.

No request leaves this machine: the keyring is a new one on its own bus, and the clouds are a server in this process.
"""

import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

END = "2099-01-01T00:00:00Z"
AWS = json.dumps({"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "k" * 40, "SessionToken": "t" * 300, "Expiration": END})
SERVER = "registry.example.org"
LIMIT = 60


NULL = os.open(os.devnull, os.O_RDWR)


def spawn(command, env, text=None):
    """Runs a program that must succeed. Returns its wall time in ms; Python's part is small and equal for all programs."""
    stdin = NULL
    if text is not None:
        # A file in memory, because writing to a pipe would be part of the measured time.
        stdin = os.memfd_create("input")
        os.write(stdin, text.encode())
        os.lseek(stdin, 0, os.SEEK_SET)
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, NULL, 1), (os.POSIX_SPAWN_DUP2, NULL, 2)]
    begin = time.perf_counter_ns()
    pid = os.posix_spawn(command[0], command, env, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    took = (time.perf_counter_ns() - begin) / 1e6
    if stdin != NULL:
        os.close(stdin)
    if status:
        raise RuntimeError(f"{' '.join(command)}: exit {os.waitstatus_to_exitcode(status)}")
    return took


class Keyring:
    """An unlocked gnome-keyring on its own session bus."""

    def __init__(self, root):
        self.env = {"PATH": os.environ["PATH"], "HOME": str(root), "XDG_RUNTIME_DIR": str(root)}
        bus = ["dbus-daemon", "--session", "--nofork", "--print-address"]
        self.bus = subprocess.Popen(bus, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.env["DBUS_SESSION_BUS_ADDRESS"] = self.bus.stdout.readline().strip()
        daemon = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"]
        self.daemon = subprocess.Popen(daemon, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.daemon.stdin.write(b"bench")
        self.daemon.stdin.close()

    def store(self, helper):
        """Stores the credential that the helper returns later. Retries, because the daemon needs time to start."""
        credential = json.dumps({"ServerURL": SERVER, "Username": "robot", "Secret": "s" * 300})
        deadline = time.monotonic() + LIMIT
        while True:
            output = subprocess.run([helper, "store"], input=credential, env=self.env, capture_output=True, text=True, timeout=LIMIT, check=False)
            if not output.returncode:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{helper}: {output.stdout}{output.stderr}")
            time.sleep(0.1)

    def close(self):
        for child in (self.daemon, self.bus):
            child.terminate()
            child.wait(timeout=LIMIT)


def awscli():
    """Returns the path of the program, not of pyenv's shim: the shim is a shell script that doubles the time."""
    path = shutil.which("aws")
    if path and "/shims/" in path:
        path = subprocess.run(["pyenv", "which", "aws"], capture_output=True, text=True, check=False).stdout.strip()
    return path or None


def other_helpers(root, secretservice, keyring):
    """Maps the name of each other tool to (command, environment, input), or to the reason why it is skipped."""
    plain = {"PATH": os.environ["PATH"], "HOME": str(root)}
    tools = {}
    aws = awscli()
    if aws:
        (root / ".aws").mkdir(exist_ok=True)
        (root / ".aws" / "credentials").write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = k\n")
        command = [aws, "configure", "export-credentials"]
        if subprocess.run(command, env=plain, capture_output=True, timeout=LIMIT, check=False).returncode:
            # Version 1 has no other command that prints a credential.
            command = [aws, "configure", "get", "aws_secret_access_key"]
        tools[f"aws {' '.join(command[1:3])}"] = (command, plain, None)
    else:
        tools["aws"] = "`aws` is not installed"
    name = "docker-credential-secretservice get"
    if secretservice and keyring:
        keyring.store(secretservice)
        tools[name] = ([secretservice, "get"], keyring.env, SERVER)
    else:
        tools[name] = "Debian's golang-docker-credential-helpers, gnome-keyring or dbus-daemon is missing"
    gcloud = shutil.which("gcloud")
    if gcloud:
        (root / "token").write_text("ya29.token")
        env = {**plain, "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(root / "token")}
        tools["gcloud auth print-access-token"] = ([gcloud, "auth", "print-access-token"], env, None)
    else:
        tools["gcloud"] = "`gcloud` is not installed"
    return tools


def pdev_helpers(sandbox):
    """Returns pdev's helpers. After their first run, the agent has their lease in memory."""
    folder = sandbox.root / "h" / ".config" / "pdev"
    folder.mkdir(parents=True, exist_ok=True)
    token = json.dumps({"token": "t" * 300, "expires_at": END})
    (folder / "identities.toml").write_text(
        f"[dev]\nsource = \"exec\"\ncommand = [\"echo\", '{AWS}']\n[reg]\nsource = \"exec\"\nhosts = [\"{SERVER}\"]\ncommand = [\"echo\", '{token}']\n"
    )
    link = sandbox.root / "docker-credential-pdev"
    link.symlink_to(sandbox.binary)
    return {
        "pdev": ([sandbox.binary, "credential", "aws", "dev"], sandbox.env, None),
        "docker-credential-pdev get": ([str(link), "get"], sandbox.env, SERVER),
    }


class Clouds(http.server.BaseHTTPRequestHandler):
    """The requests of STS, Entra and Vault that a lease needs."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/token"):
            return self.respond(json.dumps({"access_token": "e" * 1500, "expires_in": 3600, "token_type": "Bearer"}))
        fields = {"AccessKeyId": "ASIA", "SecretAccessKey": "k" * 40, "SessionToken": "t" * 700, "Expiration": END}
        return self.respond("<R><C>" + "".join(f"<{name}>{value}</{name}>" for name, value in fields.items()) + "</C></R>")

    def do_GET(self):
        self.respond(json.dumps({"lease_duration": 3600, "data": {"username": "u", "password": "p" * 40}}))

    def respond(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def ten_identities(sandbox):
    """Requests a lease of ten identities of six kinds. Yields a title at each state. The vault has a passphrase."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Clouds)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    passphrase = sandbox.root / "passphrase"
    passphrase.write_text("a long enough passphrase")
    passphrase.chmod(0o600)
    env = {**sandbox.env, "PDEV_VAULT_PASSPHRASE_FILE": str(passphrase)}
    role = f'endpoint = "{url}"\nrole_arn = "arn:aws:iam::123456789012:role/x"'
    kinds = {
        "exec-aws": f"source = \"exec\"\ncommand = [\"echo\", '{AWS}']",
        "exec-token": "source = \"exec\"\ncommand = [\"echo\", '{\"token\":\"t\"}']",
        "typed-token": 'source = "static"\nkind = "token"',
        "typed-password": 'source = "static"\nkind = "password"\nusername = "u"',
        "typed-keys": 'source = "static"\nkind = "aws"\naccess_key_id = "AKIA"',
        "role": f'source = "aws-role"\nfrom = "typed-keys"\n{role}',
        "role-of-role": f'source = "aws-role"\nfrom = "role"\n{role}',
        "web-role": f'source = "aws-web-identity"\nfrom = "exec-token"\n{role}',
        "app": f'source = "entra"\ntenant = "t"\nclient_id = "c"\nendpoint = "{url}"',
        "db": f'source = "vault-server"\naddress = "{url}"\npath = "database/creds/x"',
    }
    folder = sandbox.root / "h" / ".config" / "pdev"
    folder.mkdir(parents=True)
    (folder / "identities.toml").write_text("".join(f"[{name}]\n{text}\n" for name, text in kinds.items()))

    def pdev(*arguments, text=None):
        output = subprocess.run([sandbox.binary, *arguments], env=env, input=text, capture_output=True, text=True, timeout=LIMIT, check=False)
        if output.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {output.stdout}{output.stderr}")

    try:
        pdev("ls")
        yield "no lease requested"
        for name in ("typed-token", "typed-password", "typed-keys", "app", "db"):
            pdev("login", name, text="s" * 40)
        for name in kinds:
            form = "aws" if name in ("exec-aws", "typed-keys") or "role" in name else "token"
            pdev("credential", form, name)
        yield f"{len(kinds)} identities with a lease"
    finally:
        server.shutdown()


def missing(programs):
    return [program for program in programs if not shutil.which(program)]
