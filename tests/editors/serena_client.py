"""Tests `pdev lsp` with Serena's language client, as a coding agent uses it. usage: serena_client.py WORKSPACE

Serena opens a file for one request, closes it, and edits it without notifying the server.
"""

import os
import sys
import time
from pathlib import Path

import yaml
from solidlsp import SolidLanguageServer
from solidlsp.ls_config import LanguageServerConfig, LanguageServerId
from solidlsp.settings import SolidLSPSettings

GOOD = 'pdev: 1\napp: shop\nservices:\n  web:\n    image: "x:1"\n    port: 8080\n    needs: { api: healthy }\n  api: { image: "y:1", port: 81 }\n'
BAD = GOOD.replace("port: 8080", "prot: 8080")
NAMES = {"web", "api"}

settings = yaml.safe_load(Path(os.environ["PDEV_SERENA_SETTINGS"]).read_text())["ls_specific_settings"]
workspace = Path(sys.argv[1])
checks = 0


def check(condition, details):
    global checks
    assert condition, details
    checks += 1


def project(name, text):
    """Creates a worktree and a server for it."""
    folder = workspace / name
    folder.mkdir()
    (folder / "pdev.yaml").write_text(text)
    own_settings = SolidLSPSettings(solidlsp_dir=str(workspace / "solidlsp"), project_data_path=str(folder / ".s"), ls_specific_settings=settings)
    config = LanguageServerConfig(ls_id=LanguageServerId.YAML)
    return folder, SolidLanguageServer.create(config, str(folder), timeout=30, solidlsp_settings=own_settings)


def errors(server, file="pdev.yaml"):
    return [diagnostic for diagnostic in server.request_text_document_diagnostics(file) if diagnostic["severity"] == 1]


bad, first = project("bad", BAD)
good, second = project("good", GOOD)
with first.start_server_context(), second.start_server_context():
    found = errors(first)
    check([error["code"] for error in found] == ["PD0110"], found)
    check("fix: change `prot` to `port`" in found[0]["message"], found)
    check(errors(second) == [], "a worktree shows the diagnostics of the other one")

    symbols = first.request_document_symbols("pdev.yaml").get_all_symbols_and_roots()[0]
    check(NAMES <= {symbol["name"] for symbol in symbols}, symbols)
    definition = first.request_definition("pdev.yaml", 6, 13)
    check([(target["relativePath"], target["range"]["start"]["line"]) for target in definition] == [("pdev.yaml", 7)], definition)
    references = first.request_references("pdev.yaml", 7, 3)
    check({reference["range"]["start"]["line"] for reference in references} >= {6}, references)
    hover = first.request_hover("pdev.yaml", 4, 6)
    check("image" in str(hover), hover)
    edit = first.request_rename_symbol_edit("pdev.yaml", 7, 3, "backend")
    check(str(edit).count("backend") == 2, edit)

    # The file stays open while it is written on disk. Serena sends no notification about that.
    with first.open_file("pdev.yaml"):
        (bad / "pdev.yaml").write_text(GOOD)
        check(errors(first) == [], "the server uses an outdated buffer")
        (bad / "pdev.yaml").write_text(BAD)
        check([error["code"] for error in errors(first)] == ["PD0110"], "the server misses the second write")

    (bad / "deployment.yaml").write_text("kind: Deployment\nspec: [\n")
    started = time.monotonic()
    with first.open_file("deployment.yaml"):
        check(first.request_hover("deployment.yaml", 0, 1) is None, "hover in a file of another tool")
    check(time.monotonic() - started < 2, "the empty result took more than 2 seconds")
print(f"{checks} checks passed")
