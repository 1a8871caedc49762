// What the server's commands need from a person before they are sent, and what is done with their answers.
import * as vscode from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';
import { type Preview, rests, type Unit } from './model';
import type { Item } from './view';

export interface Argument {
  uri?: string;
  unit?: string;
}

/** What the server carries out (docs/lsp.md). */
export const SERVER_COMMANDS = [
  'pdev.up',
  'pdev.stop',
  'pdev.restart',
  'pdev.logs',
  'pdev.open',
  'pdev.status',
  'pdev.check',
  'pdev.waive',
  'pdev.render',
  'pdev.diff',
  'pdev.keep',
  'pdev.apply',
  'pdev.agent',
  'pdev.report',
  'pdev.approve',
];
/** Those that start nothing and ask nobody. */
export const STATIC_COMMANDS = new Set(['pdev.check', 'pdev.waive', 'pdev.render']);

/** Done to one service at a time here; the server knows them under the names of the whole. */
export const UNIT_COMMANDS: Record<string, string> = { 'pdev.unit.start': 'pdev.up', 'pdev.unit.stop': 'pdev.stop' };

const CHOSEN = new Set([...Object.keys(UNIT_COMMANDS), 'pdev.restart', 'pdev.logs', 'pdev.shell', 'pdev.tail']);
/** What is done in one service at a time. */
const SINGLE = new Set([...Object.keys(UNIT_COMMANDS), 'pdev.shell', 'pdev.tail']);

/** From a lens (an argument), the tree (an item) or the palette (nothing). */
export function argument(given: unknown): Argument {
  const item = given as Partial<Item> | Argument | undefined;
  if (item && 'kind' in item && (item.kind === 'preview' || item.kind === 'unit')) {
    const preview = (item as { preview: Preview }).preview;
    const uri = vscode.Uri.joinPath(vscode.Uri.file(preview.folder), 'pdev.yaml').toString();
    return item.kind === 'unit' ? { uri, unit: (item as { unit: Unit }).unit.name } : { uri };
  }
  return item && !('kind' in item) ? { ...(item as Argument) } : {};
}

/** The manifest that is looked at, else the nearest one of this workspace; `undefined` where there is none. */
export async function manifest(): Promise<string | undefined> {
  const active = vscode.window.activeTextEditor?.document;
  if (active?.languageId === 'pdev') return active.uri.toString();
  const all = await vscode.workspace.findFiles('**/pdev.yaml', '**/{node_modules,target,.git}/**', 20);
  if (all.length < 2) return all[0]?.toString();
  const labels = all.map((uri) => ({ label: vscode.workspace.asRelativePath(uri), uri }));
  const chosen = await vscode.window.showQuickPick(labels, { placeHolder: 'Which manifest?' });
  return chosen?.uri.toString();
}

async function unit(client: LanguageClient, uri: string, command: string): Promise<string | undefined> {
  const status = await ask<Preview>(client, 'pdev.status', { uri }).catch(() => undefined);
  const fits = (unit: Unit): boolean => {
    if (command === 'pdev.unit.start') return rests(unit);
    return command === 'pdev.unit.stop' ? !rests(unit) : unit.role !== 'job' || command === 'pdev.logs';
  };
  const units = (status?.units ?? []).filter(fits);
  if (units.length < 2) return units[0]?.name;
  const every = SINGLE.has(command) ? [] : [{ label: 'all', description: '' }];
  const picks = [...every, ...units.map((unit) => ({ label: unit.name, description: unit.state }))];
  return (await vscode.window.showQuickPick(picks, { placeHolder: 'Which service?' }))?.label;
}

export function ask<T>(client: LanguageClient, command: string, argument: Argument): Promise<T> {
  return client.sendRequest('workspace/executeCommand', { command, arguments: [argument] });
}

/** Fills in what is missing; `undefined` when the person changed their mind. */
export async function complete(client: LanguageClient, command: string, given: unknown): Promise<Argument | undefined> {
  const found = argument(given);
  found.uri ??= (await manifest()) ?? '';
  if (found.uri === '') {
    void vscode.window.showInformationMessage('pdev: there is no pdev.yaml in this workspace.');
    return undefined;
  }
  // The server works from what is open: a manifest that nobody looks at is opened without being shown.
  await vscode.workspace.openTextDocument(vscode.Uri.parse(found.uri));
  if (CHOSEN.has(command) && found.unit === undefined) {
    const chosen = await unit(client, found.uri, command);
    if (chosen === undefined && command in UNIT_COMMANDS) return undefined;
    if (chosen === undefined && command !== 'pdev.restart') return found;
    if (chosen === undefined) return undefined;
    if (chosen !== 'all') found.unit = chosen;
  }
  return found;
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

/** Text documents that are made, not read: `pdev-view:/logs/api`. */
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
    // Beside the manifest, in the one column where the others are.
    const other = vscode.window.visibleTextEditors.find((editor) => editor.document.uri.scheme === Views.scheme);
    const viewColumn = other?.viewColumn ?? vscode.ViewColumn.Beside;
    const editor = await vscode.window.showTextDocument(document, { preview: true, viewColumn });
    // Of a log the end matters.
    if (path.endsWith('.log')) editor.revealRange(document.lineAt(document.lineCount - 1).range);
  }
}

export async function answered(command: string, argument: Argument, result: unknown, views: Views): Promise<void> {
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
