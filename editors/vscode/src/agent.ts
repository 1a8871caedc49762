// The command line of the same binary, for what a view shows: `pdev ls --json`. Asked when something changed and somebody
// looks; never polled.
import { execFile } from 'node:child_process';
import type { Identity, Preview } from './model';

const PATIENCE_MS = 10_000;

function json<T>(binary: string, args: string[]): Promise<T[] | undefined> {
  return new Promise((resolve) => {
    execFile(binary, args, { timeout: PATIENCE_MS, maxBuffer: 16 << 20 }, (error, stdout) => {
      if (error !== null) return resolve(undefined);
      try {
        const value: unknown = JSON.parse(stdout);
        resolve(Array.isArray(value) ? (value as T[]) : undefined);
      } catch {
        resolve(undefined);
      }
    });
  });
}

/** Looking starts nothing: `ls` would start the agent, so it is asked first whether one runs. */
export async function previews(binary: string): Promise<Preview[] | undefined> {
  const runs = await new Promise<boolean>((resolve) => {
    execFile(binary, ['agent', 'status', '--json'], { timeout: PATIENCE_MS }, (error) => resolve(error === null));
  });
  return runs ? json<Preview>(binary, ['ls', '--json']) : [];
}
/** `undefined` when they cannot be told now. */
export const identities = (binary: string): Promise<Identity[] | undefined> => json(binary, ['identity', 'list', '--json']);
