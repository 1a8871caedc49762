"""Compares language servers: start, change to diagnostics, completion, hover, a burst of keys, memory.

Both servers get the same manifests, edits and requests from the same driver. Runs alternate, so that other load on the
machine affects both. Columns count bytes, because the manifests are ASCII.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from client import Server

LINES = (200, 2_000, 20_000)
BUDGETS = {"change": (3, 10, 60), "completion": (2, 5, 30), "hover": (1, 1, 1), "burst": (20, 20, 20), "memory": (20, 25, 50)}
KEYS_OF_A_BURST = 30


def manifest(lines):
    """Returns a manifest: services of eleven lines each, a database, and two diagnostics near the end."""
    text = "pdev: 1\napp: bench\nresources:\n  db: { uses: postgres@16 }\nservices:\n"
    for number in range((lines - 8) // 11):
        text += f"""  service-{number}:
    image: "example/service-{number}:1.{number}"
    port: {8000 + number % 900}
    health: /healthz
    size: {{ memory: 256Mi, cpu: 100m }}
    env:
      LEVEL: debug
      DATABASE: "${{resources.db.url}}"
      NUMBER: "{number}"
    needs:
      db: healthy
"""
    return text + '  last:\n    image: "example/last:1"\n    prot: 80\n'


def timed(call):
    started = time.perf_counter()
    result = call()
    return (time.perf_counter() - started) * 1000, result


def session(server, uri, text, rounds):
    """Measures one server with one file. Returns lists of milliseconds by name; memory is in MiB."""
    lines = text.split("\n")
    middle = next(number for number in range(len(lines) // 2, len(lines)) if lines[number].strip() == "LEVEL: debug")
    measured = {"open": [], "change": [], "completion": [], "hover": [], "burst": []}
    took, diagnostics = timed(lambda: server.open(uri, text))
    measured["open"].append(took)
    assert any("prot" in str(diagnostic) for diagnostic in diagnostics), "the misspelt key is not reported"
    pause = 0.5 if len(lines) < 10_000 else 2.5
    for number in range(rounds):
        if not server.versioned:
            server.drain(pause)
        value = f"info{number % 10}"
        length = len(lines[middle])
        server.change(uri, middle, 13, length, value)
        lines[middle] = "      LEVEL: " + value
        took, _ = timed(lambda: server.diagnostics(uri))
        measured["change"].append(took)
        # Start a key on a new line, next to the other keys of the service.
        server.change(uri, middle - 1, 0, 0, "    re\n")
        position = {"textDocument": {"uri": uri}, "position": {"line": middle - 1, "character": 6}}
        took, result = timed(lambda: server.request("textDocument/completion", position))
        measured["completion"].append(took)
        items = result["items"] if isinstance(result, dict) else result
        assert any(item["label"] == "restart" for item in items), "no completion"
        server.version += 1
        deleted = {"start": {"line": middle - 1, "character": 0}, "end": {"line": middle, "character": 0}}
        document = {"uri": uri, "version": server.version}
        server.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"range": deleted, "text": ""}]})
        server.diagnostics(uri)
        position = {"textDocument": {"uri": uri}, "position": {"line": middle - 1, "character": 5}}
        took, result = timed(lambda: server.request("textDocument/hover", position))
        measured["hover"].append(took)
        assert result, "no hover"
    for _ in range(max(rounds // 4, 3)):
        if not server.versioned:
            server.drain(pause)
        for key in range(KEYS_OF_A_BURST):
            end = len(lines[middle])
            server.change(uri, middle, end, end, "x")
            lines[middle] += "x"
            time.sleep(0.01)
        took, _ = timed(lambda: server.diagnostics(uri))
        measured["burst"].append(took)
    measured["memory"] = [server.memory()]
    return measured


def figure(values):
    values = sorted(values)
    if len(values) < 4:
        return f"{statistics.median(values):.1f}"
    return f"{statistics.median(values):.1f} / {values[int(len(values) * 0.95)]:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--yamlls", default="")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema = folder / "schema.json"
        schema.write_text(subprocess.run([options.binary, "schema"], check=True, capture_output=True, text=True).stdout)
        settings = {"yaml": {"schemas": {schema.as_uri(): "pdev.yaml"}, "validate": True, "completion": True, "hover": True}}
        tools = {"pdev": ([options.binary, "lsp", "--stdio"], {})}
        if options.yamlls:
            tools["yaml-language-server"] = (["node", options.yamlls, "--stdio"], settings)
        else:
            print("skipped: yaml-language-server: it cannot be installed from npm (PDEV_TEST_YAMLLS can name one)")
        starts = {tool: [] for tool in tools}
        for _ in range(5):
            for tool, (command, tool_settings) in tools.items():
                server = Server(command, folder, tool_settings)
                starts[tool].append(server.started_in)
                server.stop()
        print("| what | lines | " + " | ".join(tools) + " | budget |")
        print("|---|---|" + "---|" * (len(tools) + 1))
        print("| start | | " + " | ".join(figure(starts[tool]) for tool in tools) + " | 20 |")
        for size, lines in enumerate(LINES):
            text = manifest(lines)
            measured = {}
            for tool, (command, tool_settings) in tools.items():
                home = folder / f"{lines}"
                home.mkdir(exist_ok=True)
                server = Server(command, folder, tool_settings)
                rounds = options.rounds if lines < 20_000 else max(options.rounds // 2, 5)
                measured[tool] = session(server, (home / "pdev.yaml").as_uri(), text, rounds)
                server.stop()
            for name in ("open", "change", "completion", "hover", "burst", "memory"):
                budget = BUDGETS.get(name)
                row = " | ".join(figure(measured[tool][name]) for tool in tools)
                print(f"| {name} | {text.count(chr(10))} | {row} | {budget[size] if budget else ''} |")


main()
