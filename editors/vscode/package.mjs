// usage: npm run package [-- --target linux-x64 --binary PATH] [--images https://HOST/PATH]
// Creates pdev-<target>-<version>.vsix. With a binary, the package is for one platform. Without, it uses `pdev` on the PATH.
// `--images` is the address at which this folder is published. Without it, the page of the extension has no pictures.

import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const value = (name) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
};
const target = value('--target');
const binary = value('--binary');
const images = value('--images');
if (!target !== !binary) {
  console.error('error: --target and --binary need each other, because a binary is for one platform');
  process.exit(2);
}
const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
execFileSync(process.execPath, ['build.mjs'], { stdio: 'inherit' });

// Package a separate folder, because vsce packages a complete folder and the README there differs.
const stage = join('dist', 'package');
const parts = ['package.json', '.vscodeignore', 'CHANGELOG.md', 'language-configuration.json', 'pdev.schema.json'];
rmSync(stage, { recursive: true, force: true });
for (const part of [...parts, 'media', 'syntaxes', 'walkthrough', 'docs/running.png', 'docs/login.png', 'dist/extension.js'])
  cpSync(part, join(stage, part), { recursive: true });
if (binary) {
  const name = target.startsWith('win32') ? 'pdev.exe' : 'pdev';
  mkdirSync(join(stage, 'server'));
  copyFileSync(binary, join(stage, 'server', name));
  chmodSync(join(stage, 'server', name), 0o755);
}
const licence = ['../../LICENSE-MIT', '../../LICENSE-APACHE'].filter(existsSync);
writeFileSync(join(stage, 'LICENSE.txt'), licence.map((path) => readFileSync(path, 'utf8')).join('\n\n'));
// VS Code shows pictures on the page of an extension only from https, neither from files nor from data URLs.
const pictures = /!\[[^\]]*\]\((docs\/[a-z]+\.png)\)/g;
const publish = (all, path) => (images ? all.replace(path, `${images.replace(/\/$/, '')}/${path}`) : '');
writeFileSync(join(stage, 'README.md'), readFileSync('README.md', 'utf8').replace(pictures, publish));

const out = `pdev-${target ?? 'universal'}-${version}.vsix`;
const vsce = resolve('node_modules', '@vscode', 'vsce', 'vsce');
const args = ['package', '--no-dependencies', '--allow-missing-repository', '--no-rewrite-relative-links', '--out', resolve(out)];
execFileSync(process.execPath, [vsce, ...args, ...(target ? ['--target', target] : [])], { cwd: stage, stdio: 'inherit' });
rmSync(stage, { recursive: true });
console.log(out);
