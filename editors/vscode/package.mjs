// usage: npm run package [-- --target linux-x64 --binary PATH]      makes pdev-<target>-<version>.vsix
// With a binary it is a package for one platform; without, one that uses the `pdev` on the PATH.

import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const value = (name) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
};
const target = value('--target');
const binary = value('--binary');
if (!target !== !binary) {
  console.error('--target and --binary belong together: a binary runs on one platform');
  process.exit(2);
}
const version = JSON.parse(readFileSync('package.json', 'utf8')).version;
const licence = ['../../LICENSE-MIT', '../../LICENSE-APACHE'].filter(existsSync);
execFileSync(process.execPath, ['build.mjs'], { stdio: 'inherit' });
rmSync('server', { recursive: true, force: true });
if (binary) {
  const name = target.startsWith('win32') ? 'pdev.exe' : 'pdev';
  mkdirSync('server');
  copyFileSync(binary, join('server', name));
  chmodSync(join('server', name), 0o755);
}
writeFileSync('LICENSE.txt', licence.map((path) => readFileSync(path, 'utf8')).join('\n\n'));
const out = `pdev-${target ?? 'universal'}-${version}.vsix`;
const vsce = join('node_modules', '@vscode', 'vsce', 'vsce');
const args = ['package', '--no-dependencies', '--allow-missing-repository', '--no-rewrite-relative-links', '--out', out];
execFileSync(process.execPath, [vsce, ...args, ...(target ? ['--target', target] : [])], { stdio: 'inherit' });
console.log(out);
