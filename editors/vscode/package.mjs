// usage: npm run package [-- --target linux-x64 --binary PATH] [--images https://HOST/PATH]   makes pdev-<target>-<version>.vsix
// With a binary it is a package for one platform; without, one that uses the `pdev` on the PATH. The pictures of its page
// are taken from where this folder is published (`--images`); without that the page has none.

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
  console.error('--target and --binary belong together: a binary runs on one platform');
  process.exit(2);
}
const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
execFileSync(process.execPath, ['build.mjs'], { stdio: 'inherit' });

// What goes in is laid out in a folder of its own.
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
// The page of an installed extension shows pictures from https alone: neither files beside it nor pictures in the text.
const pictures = /!\[[^\]]*\]\((docs\/[a-z]+\.png)\)/g;
const shown = (all, path) => (images ? all.replace(path, `${images.replace(/\/$/, '')}/${path}`) : '');
writeFileSync(join(stage, 'README.md'), readFileSync('README.md', 'utf8').replace(pictures, shown));

const out = `pdev-${target ?? 'universal'}-${version}.vsix`;
const vsce = resolve('node_modules', '@vscode', 'vsce', 'vsce');
const args = ['package', '--no-dependencies', '--allow-missing-repository', '--no-rewrite-relative-links', '--out', resolve(out)];
execFileSync(process.execPath, [vsce, ...args, ...(target ? ['--target', target] : [])], { cwd: stage, stdio: 'inherit' });
rmSync(stage, { recursive: true });
console.log(out);
