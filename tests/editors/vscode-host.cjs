// Runs inside VS Code's extension host and tests the packaged extension through VS Code's API. It also moves a literal into
// the vault. Writes its result to a file next to the workspace. Waits for conditions, never for a fixed time.
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
const checked = () => { checks += 1; };
const waitFor = async (description, probe) => {
  for (const end = Date.now() + 20_000; ; ) {
    const result = await probe();
    if (result) return result;
    assert.ok(Date.now() < end, `failed: ${description}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
};

async function suite(folder) {
  await waitFor('the workspace is trusted', () => vscode.workspace.isTrusted);
  // Start without a manifest: the command must activate the extension.
  const first = vscode.Uri.file(join(folder, 'pdev.yaml'));
  await vscode.commands.executeCommand('pdev.new');
  const opened = await waitFor('the new manifest is open', () => vscode.window.activeTextEditor?.document);
  assert.equal(opened.uri.path, first.path);
  await waitFor('the server has analysed the manifest', async () => (await vscode.commands.executeCommand('vscode.executeHoverProvider', first, new vscode.Position(4, 5))).length > 0);
  assert.deepEqual(vscode.languages.getDiagnostics(first).map(({ message }) => message), [], 'a new manifest has no diagnostics');
  await vscode.commands.executeCommand('workbench.action.closeActiveEditor');
  checked();
  writeFileSync(join(folder, 'pdev.yaml'), TEXT);
  const extension = vscode.extensions.getExtension('pdev.pdev');
  assert.ok(extension?.extensionPath.includes('pdev.pdev-'), `the packaged extension is active: ${extension?.extensionPath}`);
  await extension.activate();
  const commands = new Set(await vscode.commands.getCommands(true));
  for (const { command } of extension.packageJSON.contributes.commands) assert.ok(commands.has(command), command);
  checked();

  const uri = vscode.Uri.file(join(folder, 'pdev.yaml'));
  const document = await vscode.workspace.openTextDocument(uri);
  await vscode.window.showTextDocument(document);
  await waitFor('the new content is loaded', () => document.getText() === TEXT);
  assert.equal(document.languageId, 'pdev');
  const codes = () => vscode.languages.getDiagnostics(uri).map(({ code }) => code?.value ?? code);
  await waitFor('the misspelt key is reported', () => codes().includes('PD0110'));
  const found = vscode.languages.getDiagnostics(uri).find(({ code }) => code?.value === 'PD0110');
  assert.equal(document.getText(found.range), 'prot');
  assert.equal(found.source, 'pdev');
  checked();

  const at = (text, offset = 0) => document.positionAt(document.getText().indexOf(text) + offset);
  const provide = (name, ...args) => vscode.commands.executeCommand(`vscode.execute${name}`, uri, ...args);
  const fixes = await provide('CodeActionProvider', found.range, 'quickfix');
  const fix = fixes.find(({ isPreferred, edit }) => isPreferred && edit);
  await vscode.workspace.applyEdit(fix.edit);
  await waitFor('the diagnostic disappears after the fix', () => !codes().includes('PD0110'));
  assert.match(document.getText(), /port: 8080/);
  checked();

  const warning = await waitFor('a guardrail warns', () => vscode.languages.getDiagnostics(uri).find(({ code }) => code?.value === 'PD013'));
  const fixTitles = (await provide('CodeActionProvider', warning.range, 'quickfix')).map(({ title }) => title);
  assert.ok(['Waive PD013', 'Allow PD013'].every((start) => fixTitles.some((title) => title.startsWith(start))), `${fixTitles}`);
  checked();

  const completion = await provide('CompletionItemProvider', at('health: none', 8));
  assert.ok(completion.items.some(({ label }) => (label.label ?? label) === 'none'), 'completion offers `none`');
  const hover = await provide('HoverProvider', at('port: 8080', 1));
  assert.match(hover.map(({ contents }) => contents.map(({ value }) => value).join()).join(), /port/i);
  const symbols = await provide('DocumentSymbolProvider');
  const names = (all) => all.flatMap(({ name, children }) => [name, ...names(children ?? [])]);
  assert.ok(['services', 'web', 'api'].every((name) => names(symbols).includes(name)), `the outline has ${names(symbols)}`);
  const links = await provide('LinkProvider');
  assert.ok(Array.isArray(links));
  const tokens = await vscode.commands.executeCommand('vscode.provideDocumentSemanticTokens', uri);
  assert.ok(tokens.data.length > 20, 'semantic tokens');
  const definition = await provide('DefinitionProvider', at('services.api.url', 10));
  assert.equal((definition[0].targetRange ?? definition[0].range).start.line, at('\n  api:', 1).line);
  const formatted = await provide('FormatDocumentProvider', { tabSize: 2, insertSpaces: true });
  assert.ok((formatted ?? []).length === 0, 'formatting does not change a formatted file');
  checked();
  const start = new vscode.Range(0, 0, 0, 0);
  assert.equal((await provide('CodeActionProvider', start, 'source.organize')).length, 0, 'the sections are in order');
  const renamed = await provide('DocumentRenameProvider', at('\n  api:', 4), 'backend');
  assert.equal(renamed.get(uri).length, 2, 'rename changes the name and its reference');
  checked();

  // Move the literal into the vault with the action that a user would choose.
  const literal = new vscode.Range(at(SECRET), at(SECRET));
  const refactorings = await provide('CodeActionProvider', literal, 'refactor');
  const keep = refactorings.find(({ title }) => title.includes('into the vault'));
  assert.ok(keep, refactorings.map(({ title }) => title).join());
  await vscode.commands.executeCommand(keep.command.command, ...keep.command.arguments);
  await waitFor('the manifest references the secret', () => document.getText().includes('STRIPE_KEY_FILE: "${secrets.stripe-key.path}"'));
  assert.ok(!document.getText().includes(SECRET));
  assert.ok(await document.save());
  const pdev = (...args) => execFileSync(join(extension.extensionPath, 'server/pdev'), args, { cwd: folder, encoding: 'utf8' });
  assert.match(pdev('secret', 'list'), /stripe-key/);
  checked();

  const argument = { uri: uri.toString() };
  await vscode.commands.executeCommand('pdev.up', argument);
  const status = () => vscode.commands.executeCommand('pdev.status', argument);
  await waitFor('the preview is ready', async () => JSON.parse(pdev('ls', '--json')).some(({ title, state }) => title === 'host/main' && state === 'ready'));
  await waitFor('the service has the value', () => pdev('logs', 'api', '--tail', '5').includes(`the key has ${SECRET.length}`));
  checked();
  const everything = new vscode.Range(0, 0, document.lineCount, 0);
  const hints = async () => (await provide('InlayHintProvider', everything)).map(({ label }) => (typeof label === 'string' ? label : label.map(({ value }) => value).join('')));
  await waitFor('hints show states and values', async () => {
    const all = (await hints()).join('\n');
    return /^ready http:\/\/web\.main\.host\.localhost/m.test(all) && /http:\/\/api\.main\.host/.test(all);
  });
  const settings = vscode.workspace.getConfiguration('pdev');
  await settings.update('inlayHints.values', false, vscode.ConfigurationTarget.Workspace);
  await waitFor('the setting hides values', async () => (await hints()).length === 2);
  await settings.update('inlayHints.values', undefined, vscode.ConfigurationTarget.Workspace);
  checked();
  const lenses = await provide('CodeLensProvider', 50);
  const titles = lenses.map(({ command }) => command?.title);
  for (const title of ['host/main: ready', '▶ up', '■ stop', 'logs', 'shell']) assert.ok(titles.includes(title), `${title}: ${titles}`);
  await status();
  checked();

  for (const [command, path, text] of [
    ['pdev.render', '/fields', 'services.api.health'],
    ['pdev.diff', '/plan', 'Nothing would change.'],
    ['pdev.report', '/report', 'pdev '],
    ['pdev.logs', '/logs/api.log', 'the key has'],
  ]) {
    await vscode.commands.executeCommand(command, { ...argument, ...(command === 'pdev.logs' ? { unit: 'api' } : {}) });
    const shown = await waitFor(`${command} shows ${path}`, () => vscode.workspace.textDocuments.find(({ uri }) => uri.path === path));
    await waitFor(`${command}: ${text}`, () => shown.getText().includes(text));
    assert.ok(!shown.getText().includes(SECRET), `${command} shows the secret`);
    checked();
  }

  // Stop and start one service: first by its lens, then with the argument that the view's menu sends.
  const stateOf = (name) => JSON.parse(pdev('status', '--json')).units.find((unit) => unit.name === name).state;
  const webLenses = await waitFor('the service has a stop lens', async () => {
    const all = await vscode.commands.executeCommand('vscode.executeCodeLensProvider', uri, 50);
    const own = all.filter(({ range }) => range.start.line === at('\n  web:', 1).line);
    return own.some(({ command }) => command.title === '■ stop') && own;
  });
  const stop = webLenses.find(({ command }) => command.title === '■ stop').command;
  await vscode.commands.executeCommand(stop.command, ...stop.arguments);
  await waitFor('only this service is stopped', () => stateOf('web') === 'stopped' && stateOf('api') === 'ready');
  await waitFor('the service has a start lens', async () => {
    const all = await vscode.commands.executeCommand('vscode.executeCodeLensProvider', uri, 50);
    return all.some(({ range, command }) => range.start.line === at('\n  web:', 1).line && command.title === '▶ start');
  });
  assert.ok(!vscode.languages.getDiagnostics(uri).some(({ code }) => code === 'drift'), 'a stopped service is not reported as drift');
  const item = { kind: 'unit', preview: { folder }, unit: { name: 'web' } };
  await vscode.commands.executeCommand('pdev.unit.start', item);
  await waitFor('the service runs again', () => stateOf('web') === 'ready');
  await vscode.commands.executeCommand('pdev.unit.stop', item);
  await waitFor('the service is stopped again', () => stateOf('web') === 'stopped' && stateOf('api') === 'ready');
  checked();

  await vscode.commands.executeCommand('pdev.server.restart');
  await waitFor('the restarted server answers', async () => (await provide('HoverProvider', at('port: 8080', 1))).length > 0);
  checked();
  await vscode.commands.executeCommand('pdev.stop', argument);
  await waitFor('the preview is down', async () => !JSON.parse(pdev('ls', '--json')).some(({ title, state }) => title === 'host/main' && state === 'ready'));
  checked();
}

exports.run = async () => {
  const folder = vscode.workspace.workspaceFolders[0].uri.fsPath;
  let result;
  try {
    await suite(folder);
    result = { checks };
  } catch (error) {
    result = { checks, error: String(error.stack ?? error) };
  }
  writeFileSync(`${folder}.json`, JSON.stringify(result));
};
