// Bundles the extension into dist/. With `--watch`, bundles again after each change.
import { build, context } from 'esbuild';

const options = {
  entryPoints: ['src/extension.ts'],
  bundle: true,
  minify: true,
  format: 'cjs',
  platform: 'node',
  target: 'node18',
  external: ['vscode'],
  outfile: 'dist/extension.js',
};
if (process.argv.includes('--watch')) await (await context(options)).watch();
else await build(options);
