// Selects the `pdev` program. Each candidate runs once with `--version`, so that a binary for another platform, a missing
// executable bit or a quarantine is reported as a clear error. The language client would only report a dead server.
import { execFile } from 'node:child_process';
import { join } from 'node:path';

export interface Candidate {
  path: string;
  from: 'pdev.path' | 'PATH' | 'extension';
}

export interface Working extends Candidate {
  version: string;
}

export interface Rejected extends Candidate {
  reason: string;
}

const TIMEOUT_MS = 5000;

/** In an untrusted workspace, only the copy in the extension, because the workspace's settings can name any program. */
export function candidates(setting: string, trusted: boolean, extension: string, platform = process.platform): Candidate[] {
  const bundled: Candidate = { path: join(extension, 'server', platform === 'win32' ? 'pdev.exe' : 'pdev'), from: 'extension' };
  if (!trusted) return [bundled];
  // With a set path, no other program is a fallback, because the user would not notice the difference.
  if (setting.trim() !== '') return [{ path: setting.trim(), from: 'pdev.path' }];
  return [{ path: 'pdev', from: 'PATH' }, bundled];
}

export function probe(candidate: Candidate): Promise<Working | Rejected> {
  return new Promise((resolve) => {
    execFile(candidate.path, ['--version'], { timeout: TIMEOUT_MS }, (error, stdout) => {
      const version = /^pdev (\S+)/.exec(stdout)?.[1];
      if (version !== undefined) resolve({ ...candidate, version });
      else resolve({ ...candidate, reason: error === null ? `\`--version\` printed \`${stdout.trim()}\`` : reasonOf(error) });
    });
  });
}

function reasonOf(error: Error & { code?: string | number | null | undefined }): string {
  switch (error.code) {
    case 'ENOENT':
      return 'not found';
    case 'EACCES':
      return 'not executable';
    case 'ENOEXEC':
      return 'built for another platform';
    default:
      return error.message.split('\n')[0] ?? 'does not run';
  }
}

/** Returns the first candidate that works, and those that were tried before it. */
export async function select(all: Candidate[]): Promise<{ selected?: Working; rejected: Rejected[] }> {
  const rejected: Rejected[] = [];
  for (const candidate of all) {
    const result = await probe(candidate);
    if ('version' in result) return { selected: result, rejected };
    rejected.push(result);
  }
  return { rejected };
}
