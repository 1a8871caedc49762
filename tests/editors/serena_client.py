"""Serena's language client against `pdev lsp`, as a coding agent would use it. usage: serena_client.py WORKSPACE

It opens files for the length of a question, forgets them, and edits them behind the server's back.
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


def check(holds, words):
    global checks
    assert holds, words
    checks += 1


def project(name, text):
    """A worktree with a server of its own."""
    folder = workspace / name
    folder.mkdir()
    (folder / "pdev.yaml").write_text(text)
    own = SolidLSPSettings(solidlsp_dir=str(workspace / "solidlsp"), project_data_path=str(folder / ".s"), ls_specific_settings=settings)
    config = LanguageServerConfig(ls_id=LanguageServerId.YAML)
    return folder, SolidLanguageServer.create(config, str(folder), timeout=30, solidlsp_settings=own)


def errors(server, file="pdev.yaml"):
    return [one for one in server.request_text_document_diagnostics(file) if one["severity"] == 1]


bad, first = project("bad", BAD)
good, second = project("good", GOOD)
with first.start_server_context(), second.start_server_context():
    found = errors(first)
    check([one["code"] for one in found] == ["PD0110"], found)
    check("fix: change `prot` to `port`" in found[0]["message"], found)
    check(errors(second) == [], "the other worktree's findings are shown here")

    symbols = first.request_document_symbols("pdev.yaml").get_all_symbols_and_roots()[0]
    check(NAMES <= {symbol["name"] for symbol in symbols}, symbols)
    definition = first.request_definition("pdev.yaml", 6, 13)
    check([(one["relativePath"], one["range"]["start"]["line"]) for one in definition] == [("pdev.yaml", 7)], definition)
    references = first.request_references("pdev.yaml", 7, 3)
    check({one["range"]["start"]["line"] for one in references} >= {6}, references)
    hover = first.request_hover("pdev.yaml", 4, 6)
    check("image" in str(hover), hover)
    edit = first.request_rename_symbol_edit("pdev.yaml", 7, 3, "backend")
    check(str(edit).count("backend") == 2, edit)

    # Kept open while the file is written behind the server's back, which is never told.
    with first.open_file("pdev.yaml"):
        (bad / "pdev.yaml").write_text(GOOD)
        check(errors(first) == [], "the disk is newer than the buffer")
        (bad / "pdev.yaml").write_text(BAD)
        check([one["code"] for one in errors(first)] == ["PD0110"], "and newer again")

    (bad / "deployment.yaml").write_text("kind: Deployment\nspec: [\n")
    begun = time.monotonic()
    with first.open_file("deployment.yaml"):
        check(first.request_hover("deployment.yaml", 0, 1) is None, "somebody else's file")
    check(time.monotonic() - begun < 2, "silence took long")
print(f"{checks} checks passed")
