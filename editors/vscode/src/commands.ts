// Completes the arguments of the server's commands before they are sent, and shows their results.
import * as vscode from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';
import { isStopped, type Preview, type Unit } from './model';
import type { Item } from './view';

export interface Argument {
  uri?: string;
  unit?: string;
}

/** The commands that this extension sends to the server (docs/lsp.md). */
export const SERVER_COMMANDS = [
  'pdev.up',
  'pdev.stop',
  'pdev.restart',
  'pdev.logs',
  'pdev.open',
  'pdev.status',
  'pdev.check',
  'pdev.advice',
  'pdev.waive',
  'pdev.render',
  'pdev.diff',
  'pdev.keep',
  'pdev.apply',
  'pdev.agent',
  'pdev.report',
  'pdev.approve',
];
/** Commands that start no program and prompt no user, so they are allowed in untrusted workspaces. */
export const STATIC_COMMANDS = new Set(['pdev.check', 'pdev.advice', 'pdev.waive', 'pdev.render']);

/** Commands of this extension for one service, and the server command for each. */
export const UNIT_COMMANDS: Record<string, string> = { 'pdev.unit.start': 'pdev.up', 'pdev.unit.stop': 'pdev.stop' };

/** Commands that let the user choose a service if the argument names none. */
const WITH_UNIT = new Set([...Object.keys(UNIT_COMMANDS), 'pdev.restart', 'pdev.logs', 'pdev.shell', 'pdev.tail']);
/** Commands that need exactly one service. */
const SINGLE = new Set([...Object.keys(UNIT_COMMANDS), 'pdev.shell', 'pdev.tail']);

/** Converts the argument of a lens, an item of the tree, or `undefined` from the palette. */
export function argument(source: unknown): Argument {
  const item = source as Partial<Item> | Argument | undefined;
  if (item && 'kind' in item && (item.kind === 'preview' || item.kind === 'unit')) {
    const preview = (item as { preview: Preview }).preview;
    const uri = vscode.Uri.joinPath(vscode.Uri.file(preview.folder), 'pdev.yaml').toString();
    return item.kind === 'unit' ? { uri, unit: (item as { unit: Unit }).unit.name } : { uri };
  }
  return item && !('kind' in item) ? { ...(item as Argument) } : {};
}

/** The manifest in the active editor, else one of the workspace. `undefined` if there is none or the user cancels. */
export async function manifest(): Promise<string | undefined> {
  const active = vscode.window.activeTextEditor?.document;
  if (active?.languageId === 'pdev') return active.uri.toString();
  const all = await vscode.workspace.findFiles('**/pdev.yaml', '**/{node_modules,target,.git}/**', 20);
  if (all.length < 2) return all[0]?.toString();
  const labels = all.map((uri) => ({ label: vscode.workspace.asRelativePath(uri), uri }));
  const chosen = await vscode.window.showQuickPick(labels, { placeHolder: 'Which manifest?' });
  return chosen?.uri.toString();
}

async function chooseUnit(client: LanguageClient, uri: string, command: string): Promise<string | undefined> {
  const status = await execute<Preview>(client, 'pdev.status', { uri }).catch(() => undefined);
  const fits = (unit: Unit): boolean => {
    if (command === 'pdev.unit.start') return isStopped(unit);
    return command === 'pdev.unit.stop' ? !isStopped(unit) : unit.role !== 'job' || command === 'pdev.logs';
  };
  const units = (status?.units ?? []).filter(fits);
  if (units.length < 2) return units[0]?.name;
  const every = SINGLE.has(command) ? [] : [{ label: 'all', description: '' }];
  const picks = [...every, ...units.map((unit) => ({ label: unit.name, description: unit.state }))];
  return (await vscode.window.showQuickPick(picks, { placeHolder: 'Which service?' }))?.label;
}

export function execute<T>(client: LanguageClient, command: string, argument: Argument): Promise<T> {
  return client.sendRequest('workspace/executeCommand', { command, arguments: [argument] });
}

/** Adds the missing manifest and service to an argument. `undefined` if the user cancels. */
export async function complete(client: LanguageClient, command: string, source: unknown): Promise<Argument | undefined> {
  const target = argument(source);
  target.uri ??= (await manifest()) ?? '';
  if (target.uri === '') {
    void vscode.window.showInformationMessage('pdev: this workspace has no pdev.yaml. Run `pdev: New Manifest` to create it.');
    return undefined;
  }
  // The server's commands need an open document. This opens it without showing it.
  await vscode.workspace.openTextDocument(vscode.Uri.parse(target.uri));
  if (WITH_UNIT.has(command) && target.unit === undefined) {
    const chosen = await chooseUnit(client, target.uri, command);
    if (chosen === undefined && command in UNIT_COMMANDS) return undefined;
    if (chosen === undefined && command !== 'pdev.restart') return target;
    if (chosen === undefined) return undefined;
    if (chosen !== 'all') target.unit = chosen;
  }
  return target;
}

interface LogEntry {
  at: number;
  unit: string;
  text: string;
}

interface Step {
  text: string;
  because: string;
}

/** Documents with generated text, such as `pdev-view:/logs/api`. */
export class Views implements vscode.TextDocumentContentProvider {
  static readonly scheme = 'pdev-view';
  readonly #texts = new Map<string, string>();
  readonly #changed = new vscode.EventEmitter<vscode.Uri>();
  readonly onDidChange = this.#changed.event;

  provideTextDocumentContent(uri: vscode.Uri): string {
    return this.#texts.get(uri.toString()) ?? '';
  }

  async show(path: string, text: string): Promise<void> {
    const uri = vscode.Uri.from({ scheme: Views.scheme, path: `/${path}` });
    this.#texts.set(uri.toString(), text);
    this.#changed.fire(uri);
    const document = await vscode.workspace.openTextDocument(uri);
    // Show all views in one column next to the manifest.
    const other = vscode.window.visibleTextEditors.find((editor) => editor.document.uri.scheme === Views.scheme);
    const viewColumn = other?.viewColumn ?? vscode.ViewColumn.Beside;
    const editor = await vscode.window.showTextDocument(document, { preview: true, viewColumn });
    // Show the end of a log, where the newest lines are.
    if (path.endsWith('.log')) editor.revealRange(document.lineAt(document.lineCount - 1).range);
  }
}

export async function showResult(command: string, argument: Argument, result: unknown, views: Views): Promise<void> {
  const name = argument.unit ?? 'all';
  switch (command) {
    case 'pdev.logs': {
      const lines = (result as LogEntry[]).map(({ unit, text }) => (argument.unit === undefined ? `${unit} | ${text}` : text));
      return views.show(`logs/${name}.log`, lines.join('\n'));
    }
    case 'pdev.report':
      return views.show('report', String(result));
    case 'pdev.render':
      return views.show(argument.unit === undefined ? 'fields' : `fields of ${argument.unit}`, String(result));
    case 'pdev.diff': {
      const { steps, unchanged } = result as { steps: Step[]; unchanged: boolean };
      const lines = unchanged ? ['Nothing would change.'] : steps.map((step) => `${step.text}  # ${step.because}`);
      return views.show('plan', lines.join('\n'));
    }
    case 'pdev.status':
      await vscode.commands.executeCommand('pdev.previews.focus');
      return;
    case 'pdev.check':
      await vscode.commands.executeCommand('workbench.actions.view.problems');
  }
}
