// Tests the parts that need no editor. Bundles them in memory, so that the current sources are tested, not an old build.
import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { build } from 'esbuild';

async function load(name) {
  const out = await build({ entryPoints: [`src/${name}.ts`], bundle: true, format: 'esm', platform: 'node', write: false });
  return import(`data:text/javascript;base64,${Buffer.from(out.outputFiles[0].text).toString('base64')}`);
}

const { candidates, select } = await load('binary');
const model = await load('model');
const manifest = JSON.parse(readFileSync('package.json', 'utf8'));

test('an untrusted workspace cannot select a program', () => {
  assert.deepEqual(
    candidates('/evil', false, '/ext', 'linux').map(({ path }) => path),
    ['/ext/server/pdev'],
  );
  assert.deepEqual(
    candidates('/mine', true, '/ext', 'linux').map(({ path }) => path),
    ['/mine'],
  );
  assert.deepEqual(
    candidates(' ', true, '/ext', 'linux').map(({ path }) => path),
    ['pdev', '/ext/server/pdev'],
  );
});

test('a rejected program has a reason, and the next one is tried', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pdev-'));
  const program = (name, text, mode = 0o755) => {
    const path = join(folder, name);
    writeFileSync(path, text);
    chmodSync(path, mode);
    return { path, from: 'PATH' };
  };
  const other = program('other', '#!/bin/sh\necho "another 1.0"\n');
  const bare = program('bare', '#!/bin/sh\n', 0o644);
  const good = program('good', '#!/bin/sh\necho "pdev 1.2.3"\n');
  const { selected, rejected } = await select([{ path: join(folder, 'none'), from: 'PATH' }, bare, other, good]);
  assert.equal(selected.version, '1.2.3');
  assert.deepEqual(
    rejected.map(({ reason }) => reason),
    ['not found', 'not executable', '`--version` printed `another 1.0`'],
  );
});

test('texts show the state of a preview', () => {
  const preview = (title, folder, state) => ({ title, folder, state, units: [{ name: 'a', role: 'service', state: 'ready' }] });
  const all = [preview('shop/main', '/a', 'ready'), preview('shop/x', '/b', 'failed')];
  assert.equal(model.status(all, '/b'), '$(error) shop/x failed');
  assert.equal(model.status(all, '/c'), '$(package) pdev');
  assert.equal(model.status(all.slice(0, 1), undefined), '$(pass) shop/main ready');
  assert.equal(model.summary(all[0]), 'ready 1/1');
  assert.equal(model.line({ state: 'failed', restarts: 2, reason: 'exit 3' }), 'failed, 2 crashes: exit 3');
});

test('a new manifest is named after its folder', () => {
  for (const [folder, app] of [
    ['My Shop 2', 'my-shop-2'],
    ['2nd_try.', 'nd-try'],
    ['…', 'app'],
  ])
    assert.match(model.starter(folder), new RegExp(`^app: ${app}$`, 'm'));
});

test('menus use declared commands, and the bundle is small', () => {
  const declared = new Set(manifest.contributes.commands.map(({ command }) => command));
  for (const entries of Object.values(manifest.contributes.menus)) {
    for (const { command } of entries) assert.ok(declared.has(command), command);
  }
  const activation = manifest.activationEvents.join(' ');
  assert.ok(!activation.includes('*"') && !activation.includes('onLanguage:yaml') && !activation.includes('onStartup'));
  assert.ok(readFileSync('dist/extension.js').length < 500 * 1024);
});

test('the extension has exactly the settings of the server', () => {
  const page = readFileSync('../../docs/lsp.md', 'utf8');
  const table = page.slice(page.indexOf('## Settings'), page.indexOf('## Commands'));
  const documented = [...table.matchAll(/^\| `([A-Za-z.]+)` \|/gm)].map(([, name]) => `pdev.${name}`);
  // The client decides whether diagnostics are pushed or pulled, so this is not a setting of the extension.
  const expected = documented.filter((name) => name !== 'pdev.diagnostics');
  const clientOnly = ['pdev.path', 'pdev.trace.server'];
  const declared = Object.keys(manifest.contributes.configuration.properties);
  assert.deepEqual(declared.filter((name) => !clientOnly.includes(name)).sort(), expected.sort());
});

test('the extension sends exactly the commands of the server', () => {
  const page = readFileSync('../../docs/lsp.md', 'utf8');
  const table = page.slice(page.indexOf('## Commands'));
  // Logins run in a terminal, because some need a typed secret, which must not pass through a message of the editor.
  const documented = [...table.matchAll(/^\| `(pdev\.[a-z]+)` \|/gm)].map(([, name]) => name).filter((name) => name !== 'pdev.login');
  const source = readFileSync('src/commands.ts', 'utf8');
  const sent = source.slice(source.indexOf('SERVER_COMMANDS = ['), source.indexOf('];')).match(/'pdev\.[a-z]+'/g);
  assert.deepEqual(sent.map((name) => name.slice(1, -1)).sort(), documented.sort());
});
