// What needs no editor: which binary, and how states are told. Bundled on the fly, so that the sources are what is tested.
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

const { candidates, find } = await load('binary');
const model = await load('model');
const manifest = JSON.parse(readFileSync('package.json', 'utf8'));

test('an untrusted workspace cannot name a program', () => {
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

test('what does not run is told with its reason, and the next one is tried', async () => {
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
  const { found, refused } = await find([{ path: join(folder, 'none'), from: 'PATH' }, bare, other, good]);
  assert.equal(found.version, '1.2.3');
  assert.deepEqual(
    refused.map(({ reason }) => reason),
    ['it is not there', 'it may not be executed', 'it says `another 1.0`'],
  );
});

test('states are told', () => {
  const preview = (title, folder, state) => ({ title, folder, state, units: [{ name: 'a', role: 'service', state: 'ready' }] });
  const all = [preview('shop/main', '/a', 'ready'), preview('shop/x', '/b', 'failed')];
  assert.equal(model.status(all, '/b'), '$(error) shop/x failed');
  assert.equal(model.status(all, '/c'), '$(package) pdev');
  assert.equal(model.status(all.slice(0, 1), undefined), '$(pass) shop/main ready');
  assert.equal(model.summary(all[0]), 'ready 1/1');
  assert.equal(model.line({ state: 'failed', restarts: 2, reason: 'exit 3' }), 'failed, 2 crashes: exit 3');
});

test('a first manifest is named after its folder', () => {
  for (const [folder, app] of [
    ['My Shop 2', 'my-shop-2'],
    ['2nd_try.', 'nd-try'],
    ['…', 'app'],
  ])
    assert.match(model.starter(folder), new RegExp(`^app: ${app}$`, 'm'));
});

test('every command of a menu is declared, and the bundle is small', () => {
  const declared = new Set(manifest.contributes.commands.map(({ command }) => command));
  for (const entries of Object.values(manifest.contributes.menus)) {
    for (const { command } of entries) assert.ok(declared.has(command), command);
  }
  const activation = manifest.activationEvents.join(' ');
  assert.ok(!activation.includes('*"') && !activation.includes('onLanguage:yaml') && !activation.includes('onStartup'));
  assert.ok(readFileSync('dist/extension.js').length < 500 * 1024);
});

test('every setting of the server can be set here, and no other', () => {
  const page = readFileSync('../../docs/lsp.md', 'utf8');
  const table = page.slice(page.indexOf('## Settings'), page.indexOf('## Commands'));
  const told = [...table.matchAll(/^\| `([A-Za-z.]+)` \|/gm)].map(([, name]) => `pdev.${name}`);
  // How findings travel is for the client to choose, not for a person.
  const expected = told.filter((name) => name !== 'pdev.diagnostics');
  const own = ['pdev.path', 'pdev.trace.server'];
  const declared = Object.keys(manifest.contributes.configuration.properties);
  assert.deepEqual(declared.filter((name) => !own.includes(name)).sort(), expected.sort());
});

test('the server carries out what is sent to it', () => {
  const page = readFileSync('../../docs/lsp.md', 'utf8');
  const table = page.slice(page.indexOf('## Commands'));
  // A login is typed into a terminal here: some want a secret, which no editor's message should carry.
  const told = [...table.matchAll(/^\| `(pdev\.[a-z]+)` \|/gm)].map(([, name]) => name).filter((name) => name !== 'pdev.login');
  const source = readFileSync('src/commands.ts', 'utf8');
  const sent = source.slice(source.indexOf('SERVER_COMMANDS = ['), source.indexOf('];')).match(/'pdev\.[a-z]+'/g);
  assert.deepEqual(sent.map((name) => name.slice(1, -1)).sort(), told.sort());
});
