// Gets the data of the tree view from the command line, for example `pdev ls --json`. Called after a change while the view
// is visible, never on a timer.
import { execFile } from 'node:child_process';
import type { Identity, Preview } from './model';

const TIMEOUT_MS = 10_000;

function json<T>(binary: string, args: string[]): Promise<T[] | undefined> {
  return new Promise((resolve) => {
    execFile(binary, args, { timeout: TIMEOUT_MS, maxBuffer: 16 << 20 }, (error, stdout) => {
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

/** Returns no previews if no agent runs, because `pdev ls` would start one. `undefined` if the command failed. */
export async function previews(binary: string): Promise<Preview[] | undefined> {
  const runs = await new Promise<boolean>((resolve) => {
    execFile(binary, ['agent', 'status', '--json'], { timeout: TIMEOUT_MS }, (error) => resolve(error === null));
  });
  return runs ? json<Preview>(binary, ['ls', '--json']) : [];
}
/** `undefined` if the command failed. */
export const identities = (binary: string): Promise<Identity[] | undefined> => json(binary, ['identity', 'list', '--json']);
