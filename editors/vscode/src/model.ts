// The server's data about previews, and its text form. Uses no editor API, so it is tested without an editor.

export interface Unit {
  name: string;
  role: string;
  state: string;
  runtime?: string;
  url?: string;
  reason?: string;
  restarts?: number;
}

export interface Preview {
  id: string;
  title: string;
  environment: string;
  state: string;
  folder: string;
  url?: string;
  units: Unit[];
}

export interface Identity {
  name: string;
  state?: string;
  expires_at?: number;
}

/** Text of a new manifest: one service, named after the folder, without diagnostics. */
export function starter(folder: string): string {
  const name = folder
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^[^a-z]+|-+$/g, '')
    .slice(0, 30);
  return `pdev: 1
app: ${name.replace(/-+$/, '') || 'app'}
services:
  web:
    port: 3000
    # The service is ready when this path answers.
    health: /
    # A local program. For a container, use \`image: nginx:1.29\`, or \`build: .\` next to a Dockerfile.
    process: { command: [npm, run, dev] }
`;
}

/** Whether the program of a unit has ended and is not started again. */
export function hasEnded(unit: Unit | undefined): boolean {
  return unit !== undefined && ['done', 'failed', 'stopped'].includes(unit.state);
}

/** A codicon for a state. */
export function icon(state: string): string {
  switch (state) {
    case 'ready':
    case 'done':
      return 'pass';
    case 'failed':
      return 'error';
    case 'unhealthy':
      return 'warning';
    case 'stopped':
    case 'down':
    case 'idle':
      return 'circle-outline';
    default:
      return 'sync';
  }
}

export function summary(preview: Preview): string {
  const services = preview.units.filter((unit) => unit.role !== 'job');
  const ready = services.filter((unit) => unit.state === 'ready').length;
  return preview.state === 'down' ? 'down' : `${preview.state} ${ready}/${services.length}`;
}

/** Whether *start* applies to the unit, not *stop*. */
export function isStopped(unit: Unit): boolean {
  return ['stopped', 'done', 'failed', 'waiting'].includes(unit.state);
}

/** The state of a unit in one line. */
export function line(unit: Unit): string {
  const crashes = unit.restarts ? `, ${unit.restarts} crashes` : '';
  return `${unit.state}${crashes}${unit.reason === undefined ? '' : `: ${unit.reason}`}`;
}

/** Text of the status bar: the preview of this folder, or the only preview. */
export function status(previews: Preview[], folder: string | undefined): string {
  const own = previews.find((preview) => preview.folder === folder) ?? (previews.length === 1 ? previews[0] : undefined);
  return own === undefined ? '$(package) pdev' : `$(${icon(own.state)}) ${own.title} ${own.state}`;
}
