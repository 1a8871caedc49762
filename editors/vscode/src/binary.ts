// Which `pdev` runs. Every candidate is started once with `--version`: a package for another platform, a lost exec bit or a
// quarantine show here, with words, instead of as a dead client.
import { execFile } from 'node:child_process';
import { join } from 'node:path';

export interface Candidate {
  path: string;
  from: 'pdev.path' | 'PATH' | 'extension';
}

export interface Found extends Candidate {
  version: string;
}

export interface Refused extends Candidate {
  reason: string;
}

const PATIENCE_MS = 5000;

/** In an untrusted folder only what came with the extension: a workspace may name any program in its settings. */
export function candidates(setting: string, trusted: boolean, extension: string, platform = process.platform): Candidate[] {
  const bundled: Candidate = { path: join(extension, 'server', platform === 'win32' ? 'pdev.exe' : 'pdev'), from: 'extension' };
  if (!trusted) return [bundled];
  // Who names one means that one: another would be used unnoticed.
  if (setting.trim() !== '') return [{ path: setting.trim(), from: 'pdev.path' }];
  return [{ path: 'pdev', from: 'PATH' }, bundled];
}

export function probe(candidate: Candidate): Promise<Found | Refused> {
  return new Promise((resolve) => {
    execFile(candidate.path, ['--version'], { timeout: PATIENCE_MS }, (error, stdout) => {
      const version = /^pdev (\S+)/.exec(stdout)?.[1];
      if (version !== undefined) resolve({ ...candidate, version });
      else resolve({ ...candidate, reason: error === null ? `it says \`${stdout.trim()}\`` : words(error) });
    });
  });
}

function words(error: Error & { code?: string | number | null | undefined }): string {
  switch (error.code) {
    case 'ENOENT':
      return 'it is not there';
    case 'EACCES':
      return 'it may not be executed';
    case 'ENOEXEC':
      return 'it is for another platform';
    default:
      return error.message.split('\n')[0] ?? 'it does not run';
  }
}

export async function find(all: Candidate[]): Promise<{ found?: Found; refused: Refused[] }> {
  const refused: Refused[] = [];
  for (const candidate of all) {
    const answer = await probe(candidate);
    if ('version' in answer) return { found: answer, refused };
    refused.push(answer);
  }
  return { refused };
}
