// Runs inside VS Code's own extension host, with its API: what the packaged extension and the server give to the editor, and a
// literal that goes into the vault. Writes what it found beside the workspace; waits for conditions, never for time.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { writeFileSync } = require('node:fs');
const { join } = require('node:path');
const vscode = require('vscode');

const SECRET = `sk_test_${'not_anywhere_else'}`;
const TEXT = `pdev: 1
app: host
services:
  web:
    prot: 8080
    health: none
    env: { API: "\${services.api.url}" }
    process: { command: [sleep, "1000"] }
  api:
    port: 8081
    health: none
    env: { STRIPE_KEY: ${SECRET} }
    process: { command: [sh, -c, 'read -r key <"$STRIPE_KEY_FILE"; echo the key has $\${#key}; exec sleep 1001'] }
`;

let checks = 0;
const done = (words) => { checks += 1; return words; };
const until = async (what, look) => {
  for (const end = Date.now() + 20_000; ; ) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < end, `not so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
};

async function suite(folder) {
  await until('somebody trusts the workspace', () => vscode.workspace.isTrusted);
  // As somebody begins: nothing is there, and the command alone wakes the extension.
  const first = vscode.Uri.file(join(folder, 'pdev.yaml'));
  await vscode.commands.executeCommand('pdev.new');
  const begun = await until('a manifest is written and open', () => vscode.window.activeTextEditor?.document);
  assert.equal(begun.uri.path, first.path);
  await until('the server looks at it', async () => (await vscode.commands.executeCommand('vscode.executeHoverProvider', first, new vscode.Position(4, 5))).length > 0);
  assert.deepEqual(vscode.languages.getDiagnostics(first).map(({ message }) => message), [], 'a first manifest has no finding');
  await vscode.commands.executeCommand('workbench.action.closeActiveEditor');
  done();
  writeFileSync(join(folder, 'pdev.yaml'), TEXT);
  const extension = vscode.extensions.getExtension('pdev.pdev');
  assert.ok(extension?.extensionPath.includes('pdev.pdev-'), `the packaged one: ${extension?.extensionPath}`);
  await extension.activate();
  const commands = new Set(await vscode.commands.getCommands(true));
  for (const { command } of extension.packageJSON.contributes.commands) assert.ok(commands.has(command), command);
  done();

  const uri = vscode.Uri.file(join(folder, 'pdev.yaml'));
  const document = await vscode.workspace.openTextDocument(uri);
  await vscode.window.showTextDocument(document);
  await until('what was written since is read', () => document.getText() === TEXT);
  assert.equal(document.languageId, 'pdev');
  const codes = () => vscode.languages.getDiagnostics(uri).map(({ code }) => code?.value ?? code);
  await until('the misspelt key is told', () => codes().includes('PD0110'));
  const found = vscode.languages.getDiagnostics(uri).find(({ code }) => code?.value === 'PD0110');
  assert.equal(document.getText(found.range), 'prot');
  assert.equal(found.source, 'pdev');
  done();

  const at = (words, offset = 0) => document.positionAt(document.getText().indexOf(words) + offset);
  const ask = (name, ...more) => vscode.commands.executeCommand(`vscode.execute${name}`, uri, ...more);
  const fixes = await ask('CodeActionProvider', found.range, 'quickfix');
  const fix = fixes.find(({ isPreferred, edit }) => isPreferred && edit);
  await vscode.workspace.applyEdit(fix.edit);
  await until('the finding goes with its cause', () => !codes().includes('PD0110'));
  assert.match(document.getText(), /port: 8080/);
  done();

  const warned = await until('a guardrail warns', () => vscode.languages.getDiagnostics(uri).find(({ code }) => code?.value === 'PD013'));
  const ways = (await ask('CodeActionProvider', warned.range, 'quickfix')).map(({ title }) => title);
  assert.ok(ways.some((title) => title.startsWith('Waive PD013')) && ways.some((title) => title.startsWith('Allow PD013')), `${ways}`);
  done();

  const completion = await ask('CompletionItemProvider', at('health: none', 8));
  assert.ok(completion.items.some(({ label }) => (label.label ?? label) === 'none'), 'completion knows the word');
  const hover = await ask('HoverProvider', at('port: 8080', 1));
  assert.match(hover.map(({ contents }) => contents.map((one) => one.value).join()).join(), /port/i);
  const symbols = await ask('DocumentSymbolProvider');
  const names = (all) => all.flatMap(({ name, children }) => [name, ...names(children ?? [])]);
  assert.ok(['services', 'web', 'api'].every((name) => names(symbols).includes(name)), `the outline has ${names(symbols)}`);
  const links = await ask('LinkProvider');
  assert.ok(Array.isArray(links));
  const tokens = await vscode.commands.executeCommand('vscode.provideDocumentSemanticTokens', uri);
  assert.ok(tokens.data.length > 20, 'semantic tokens');
  const definition = await ask('DefinitionProvider', at('services.api.url', 10));
  assert.equal((definition[0].targetRange ?? definition[0].range).start.line, at('\n  api:', 1).line);
  const formatted = await ask('FormatDocumentProvider', { tabSize: 2, insertSpaces: true });
  assert.ok((formatted ?? []).length === 0, 'what is tidy stays as it is');
  done();
  const whole = new vscode.Range(0, 0, 0, 0);
  assert.equal((await ask('CodeActionProvider', whole, 'source.organize')).length, 0, 'the sections are in order');
  const renamed = await ask('DocumentRenameProvider', at('\n  api:', 4), 'backend');
  assert.equal(renamed.get(uri).length, 2, 'the name and its mention');
  done();

  // The literal goes into the vault by the very action that a person chooses.
  const place = new vscode.Range(at(SECRET), at(SECRET));
  const refactorings = await ask('CodeActionProvider', place, 'refactor');
  const keep = refactorings.find(({ title }) => title.includes('into the vault'));
  assert.ok(keep, refactorings.map(({ title }) => title).join());
  await vscode.commands.executeCommand(keep.command.command, ...keep.command.arguments);
  await until('the manifest names the secret', () => document.getText().includes('STRIPE_KEY_FILE: "${secrets.stripe-key.path}"'));
  assert.ok(!document.getText().includes(SECRET));
  assert.ok(await document.save());
  const pdev = (...args) => execFileSync(join(extension.extensionPath, 'server/pdev'), args, { cwd: folder, encoding: 'utf8' });
  assert.match(pdev('secret', 'list'), /stripe-key/);
  done();

  const argument = { uri: uri.toString() };
  await vscode.commands.executeCommand('pdev.up', argument);
  const status = () => vscode.commands.executeCommand('pdev.status', argument);
  await until('it is up', async () => JSON.parse(pdev('ls', '--json')).some(({ title, state }) => title === 'host/main' && state === 'ready'));
  await until('the service has the value', () => pdev('logs', 'api', '--tail', '5').includes(`the key has ${SECRET.length}`));
  done();
  const everything = new vscode.Range(0, 0, document.lineCount, 0);
  const hints = async () => (await ask('InlayHintProvider', everything)).map(({ label }) => (typeof label === 'string' ? label : label.map(({ value }) => value).join('')));
  await until('state and values stand behind the text', async () => {
    const all = (await hints()).join('\n');
    return /^ready http:\/\/web\.main\.host\.localhost/m.test(all) && /http:\/\/api\.main\.host/.test(all);
  });
  const settings = vscode.workspace.getConfiguration('pdev');
  await settings.update('inlayHints.values', false, vscode.ConfigurationTarget.Workspace);
  await until('values can be switched off', async () => (await hints()).length === 2);
  await settings.update('inlayHints.values', undefined, vscode.ConfigurationTarget.Workspace);
  done();
  const lenses = await ask('CodeLensProvider', 50);
  const titles = lenses.map(({ command }) => command?.title);
  for (const title of ['host/main: ready', '▶ up', '■ stop', 'logs', 'shell']) assert.ok(titles.includes(title), `${title}: ${titles}`);
  await status();
  done();

  for (const [command, path, words] of [
    ['pdev.render', '/fields', 'services.api.health'],
    ['pdev.diff', '/plan', 'Nothing would change.'],
    ['pdev.report', '/report', 'pdev '],
    ['pdev.logs', '/logs/api.log', 'the key has'],
  ]) {
    await vscode.commands.executeCommand(command, { ...argument, ...(command === 'pdev.logs' ? { unit: 'api' } : {}) });
    const shown = await until(`${command} shows ${path}`, () => vscode.workspace.textDocuments.find((one) => one.uri.path === path));
    await until(`${command}: ${words}`, () => shown.getText().includes(words));
    assert.ok(!shown.getText().includes(SECRET), `${command} tells the secret`);
    done();
  }

  // One service alone: by its lens, then as the view's menu sends it.
  const stateOf = (name) => JSON.parse(pdev('status', '--json')).units.find((unit) => unit.name === name).state;
  const ofWeb = await until('a lens stops the service', async () => {
    const all = await vscode.commands.executeCommand('vscode.executeCodeLensProvider', uri, 50);
    const own = all.filter(({ range }) => range.start.line === at('\n  web:', 1).line);
    return own.some(({ command }) => command.title === '■ stop') && own;
  });
  const stop = ofWeb.find(({ command }) => command.title === '■ stop').command;
  await vscode.commands.executeCommand(stop.command, ...stop.arguments);
  await until('it alone is stopped', () => stateOf('web') === 'stopped' && stateOf('api') === 'ready');
  await until('a lens starts it', async () => {
    const all = await vscode.commands.executeCommand('vscode.executeCodeLensProvider', uri, 50);
    return all.some(({ range, command }) => range.start.line === at('\n  web:', 1).line && command.title === '▶ start');
  });
  assert.ok(!vscode.languages.getDiagnostics(uri).some(({ code }) => code === 'drift'), 'what was stopped is no drift');
  const item = { kind: 'unit', preview: { folder }, unit: { name: 'web' } };
  await vscode.commands.executeCommand('pdev.unit.start', item);
  await until('it runs again', () => stateOf('web') === 'ready');
  await vscode.commands.executeCommand('pdev.unit.stop', item);
  await until('and rests again', () => stateOf('web') === 'stopped' && stateOf('api') === 'ready');
  done();

  await vscode.commands.executeCommand('pdev.server.restart');
  await until('the server serves again', async () => (await ask('HoverProvider', at('port: 8080', 1))).length > 0);
  done();
  await vscode.commands.executeCommand('pdev.stop', argument);
  await until('it is down', async () => !JSON.parse(pdev('ls', '--json')).some(({ title, state }) => title === 'host/main' && state === 'ready'));
  done();
}

exports.run = async () => {
  const folder = vscode.workspace.workspaceFolders[0].uri.fsPath;
  let said;
  try {
    await suite(folder);
    said = { checks };
  } catch (error) {
    said = { checks, error: String(error.stack ?? error) };
  }
  writeFileSync(`${folder}.json`, JSON.stringify(said));
};
