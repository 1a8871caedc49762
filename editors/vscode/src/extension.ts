// Connects the parts: selects the binary, starts the language server, shows its state. All other features are in the
// server, so that every editor has them.
import * as vscode from 'vscode';
import { type LanguageClientOptions, type ServerOptions, State } from 'vscode-languageclient/node';
import * as agent from './agent';
import { candidates, select, type Working } from './binary';
import { Client } from './client';
import { complete, execute, SERVER_COMMANDS, STATIC_COMMANDS, showResult, UNIT_COMMANDS, Views } from './commands';
import { hasEnded, type Identity, icon, type Preview, status } from './model';
import { createManifest } from './newManifest';
import { type Item, Previews } from './view';

const REFRESH_DELAY_MS = 200;

let running: Extension | undefined;

/** Returns before the server runs, so that the editor does not wait. The status bar shows the progress. */
export function activate(context: vscode.ExtensionContext): void {
  running = new Extension(context);
  context.subscriptions.push(running);
  void running.start();
}

export async function deactivate(): Promise<void> {
  await running?.stop();
}

class Extension implements vscode.Disposable {
  readonly #context: vscode.ExtensionContext;
  readonly #log = vscode.window.createOutputChannel('pdev', { log: true });
  readonly #bar = vscode.window.createStatusBarItem('pdev.status', vscode.StatusBarAlignment.Left, 20);
  readonly #views = new Views();
  readonly #tree = new Previews();
  readonly #view: vscode.TreeView<Item>;
  #client: Client | undefined;
  #binary: Working | undefined;
  #previews: Preview[] = [];
  #identities: Identity[] = [];
  #stale = true;
  #refreshTimer: NodeJS.Timeout | undefined;

  constructor(context: vscode.ExtensionContext) {
    this.#context = context;
    this.#view = vscode.window.createTreeView('pdev.previews', { treeDataProvider: this.#tree });
    this.#bar.name = 'pdev';
    this.#bar.command = 'pdev.menu';
    this.#bar.text = '$(loading~spin) pdev';
    this.#bar.show();
    const command = (name: string, run: (argument: unknown) => unknown) => vscode.commands.registerCommand(name, run);
    context.subscriptions.push(
      this.#log,
      this.#bar,
      this.#view,
      vscode.workspace.registerTextDocumentContentProvider(Views.scheme, this.#views),
      this.#view.onDidChangeVisibility(() => this.#refresh()),
      vscode.window.onDidChangeActiveTextEditor(() => this.#updateStatusBar()),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.restart()),
      vscode.workspace.onDidChangeConfiguration((change) => {
        if (change.affectsConfiguration('pdev.path')) void this.restart();
      }),
      ...[...SERVER_COMMANDS, ...Object.keys(UNIT_COMMANDS)].map((name) => command(name, (source) => this.#run(name, source))),
      command('pdev.refresh', () => this.changed()),
      command('pdev.new', () => createManifest()),
      command('pdev.menu', () => this.#menu()),
      command('pdev.server.restart', () => this.restart()),
      command('pdev.log', () => this.#log.show()),
      command('pdev.diagnostics', () => this.#diagnostics()),
      command('pdev.shell', (source) => this.#terminal('pdev.shell', source)),
      command('pdev.tail', (source) => this.#terminal('pdev.tail', source)),
      command('pdev.login', (source) => this.#login(source)),
    );
  }

  dispose(): void {
    void this.stop();
  }

  async start(): Promise<void> {
    const setting = vscode.workspace.getConfiguration('pdev').get<string>('path', '');
    const all = candidates(setting, vscode.workspace.isTrusted, this.#context.extensionPath);
    const { selected, rejected } = await select(all);
    for (const { path, from, reason } of rejected) this.#log.info(`${path} (${from}) is not used: ${reason}`);
    if (selected === undefined) return this.#noBinary(rejected.map(({ path, reason }) => `${path}: ${reason}`).join('; '));
    this.#log.info(`${selected.path} (${selected.from}) is pdev ${selected.version}`);
    this.#binary = selected;
    this.#client = new Client('pdev', 'pdev', this.#server(selected), this.#options());
    this.#client.onDidChangeState(({ newState }) => {
      if (newState === State.Stopped) this.#bar.text = '$(error) pdev';
    });
    try {
      await this.#client.start();
    } catch (error) {
      // The client has already shown a message, so only log the details.
      this.#log.error(`the language server does not start: ${String(error)}`);
      this.#bar.text = '$(error) pdev';
      return;
    }
    this.changed();
  }

  #server(binary: Working): ServerOptions {
    return { command: binary.path, args: ['lsp'] };
  }

  #options(): LanguageClientOptions {
    return {
      documentSelector: [
        { scheme: 'file', language: 'pdev' },
        { scheme: 'file', pattern: '**/module.yaml' },
        { scheme: 'file', pattern: '**/pdev.lock' },
      ],
      outputChannel: this.#log,
      synchronize: { configurationSection: 'pdev' },
      initializationOptions: settings(),
      middleware: {
        workspace: {
          // In an untrusted workspace, the server keeps its initial settings, which disable live state.
          didChangeConfiguration: (sections, next) => (vscode.workspace.isTrusted ? next(sections) : Promise.resolve()),
        },
        // The editor requests lenses and diagnostics again after a change of the live state, so refresh the view as well.
        provideCodeLenses: (document, token, next) => {
          this.#scheduleRefresh();
          return next(document, token);
        },
        provideDiagnostics: (document, previous, token, next) => {
          this.#scheduleRefresh();
          return next(document, previous, token);
        },
      },
    };
  }

  /** Runs a command of a lens, the tree or the palette. */
  async #run(name: string, source: unknown): Promise<unknown> {
    if (!vscode.workspace.isTrusted && !STATIC_COMMANDS.has(name)) {
      const trust = 'Manage Trust';
      const chosen = await vscode.window.showWarningMessage(
        'pdev runs commands only in trusted workspaces, because a manifest names programs to run.',
        trust,
      );
      if (chosen === trust) await vscode.commands.executeCommand('workbench.trust.manage');
      return undefined;
    }
    const client = this.#client;
    if (!client?.isRunning()) {
      const restart = 'Restart the Server';
      const chosen = await vscode.window.showErrorMessage('pdev: the language server is not running.', restart, 'Show the Log');
      if (chosen === restart) await this.restart();
      else if (chosen !== undefined) this.#log.show();
      return undefined;
    }
    const argument = await complete(client, name, source);
    if (argument === undefined) return undefined;
    try {
      const result = await execute<unknown>(client, UNIT_COMMANDS[name] ?? name, argument);
      await showResult(name, argument, result, this.#views);
      return result;
    } catch (error) {
      void vscode.window.showErrorMessage(`pdev: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }

  async stop(): Promise<void> {
    clearTimeout(this.#refreshTimer);
    const client = this.#client;
    this.#client = undefined;
    if (client?.needsStop()) await client.stop(2000);
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** Debounces: the editor also requests lenses on each keystroke, so refresh once after the last request. */
  #scheduleRefresh(): void {
    clearTimeout(this.#refreshTimer);
    this.#refreshTimer = setTimeout(() => this.changed(), REFRESH_DELAY_MS);
  }

  /** Refreshes the data. A hidden view is refreshed when it becomes visible. */
  changed(): void {
    this.#stale = true;
    void this.#refresh();
  }

  async #refresh(): Promise<void> {
    if (!this.#stale || this.#binary === undefined || !vscode.workspace.isTrusted) return this.#updateStatusBar();
    // The data of a hidden view is not fetched, so it stays stale.
    this.#stale = !this.#view.visible;
    const { path } = this.#binary;
    const live = vscode.workspace.getConfiguration('pdev').get<boolean>('live.enabled', true);
    this.#previews = live ? await this.#fetchPreviews() : [];
    // If the command fails, keep the previous identities.
    if (!live) this.#identities = [];
    else if (this.#view.visible) this.#identities = (await agent.identities(path)) ?? this.#identities;
    this.#tree.show(this.#previews, this.#identities);
    this.#updateStatusBar();
  }

  /** All previews if the view is visible. Else only those of open manifests, which the server has in memory. */
  async #fetchPreviews(): Promise<Preview[]> {
    if (this.#view.visible && this.#binary !== undefined) return (await agent.previews(this.#binary.path)) ?? this.#previews;
    const open = vscode.workspace.textDocuments.filter((document) => document.languageId === 'pdev');
    const statuses = open.map((document) =>
      this.#client ? execute<Preview>(this.#client, 'pdev.status', { uri: document.uri.toString() }).catch(() => undefined) : undefined,
    );
    return (await Promise.all(statuses)).filter((preview): preview is Preview => preview !== undefined && preview !== null);
  }

  #updateStatusBar(): void {
    if (this.#client === undefined) return;
    const active = vscode.window.activeTextEditor?.document.uri;
    const folder = active && vscode.Uri.joinPath(active, '..').fsPath;
    this.#bar.text = status(this.#previews, folder);
    const lines = this.#previews.map((preview) => `$(${icon(preview.state)}) ${preview.title}: ${preview.state}`);
    this.#bar.tooltip = new vscode.MarkdownString(lines.length > 0 ? lines.join('  \n') : 'No preview is running.', true);
  }

  async #noBinary(reasons: string): Promise<void> {
    this.#bar.text = '$(error) pdev';
    this.#bar.tooltip = `No working pdev program found: ${reasons}`;
    const path = 'Set the Path';
    const chosen = await vscode.window.showErrorMessage(`No working pdev program found: ${reasons}.`, path, 'Show the Log');
    if (chosen === path) await vscode.commands.executeCommand('workbench.action.openSettings', 'pdev.path');
    else if (chosen !== undefined) this.#log.show();
  }

  async #menu(): Promise<void> {
    const names = [
      ['$(play) Bring the preview up', 'pdev.up'],
      ['$(link-external) Open in browser', 'pdev.open'],
      ['$(output) Show logs', 'pdev.logs'],
      ['$(debug-restart) Restart', 'pdev.restart'],
      ['$(debug-stop) Take the preview down', 'pdev.stop'],
      ['$(diff) Show the plan', 'pdev.diff'],
      ['$(key) Log in', 'pdev.login'],
      ['$(verified) Approve an identity', 'pdev.approve'],
      ['$(gear) Show the log', 'pdev.log'],
    ] as const;
    const picks = names.map(([label, command]) => ({ label, command }));
    const chosen = await vscode.window.showQuickPick(picks, { placeHolder: `pdev ${this.#binary?.version ?? ''}` });
    if (chosen !== undefined) await vscode.commands.executeCommand(chosen.command);
  }

  async #terminal(name: 'pdev.shell' | 'pdev.tail', source: unknown): Promise<void> {
    if (this.#client === undefined || this.#binary === undefined) return;
    const argument = await complete(this.#client, name, source);
    if (argument?.uri === undefined || argument.unit === undefined) return;
    const { unit } = argument;
    const client = this.#client;
    const preview = await execute<Preview>(client, 'pdev.status', argument).catch(() => undefined);
    // A terminal that follows the log of an ended unit would close at once.
    if (name === 'pdev.tail' && hasEnded(preview?.units.find((found) => found.name === unit))) {
      await this.#run('pdev.logs', argument);
      return;
    }
    const cwd = vscode.Uri.joinPath(vscode.Uri.parse(argument.uri), '..');
    const shell = name === 'pdev.shell';
    vscode.window
      .createTerminal({
        name: shell ? `pdev ${unit}` : `pdev logs ${unit}`,
        cwd,
        shellPath: this.#binary.path,
        shellArgs: shell ? ['exec', unit, '--', 'sh'] : ['logs', '--follow', unit],
      })
      .show();
  }

  async #login(source: unknown): Promise<void> {
    if (this.#binary === undefined) return;
    // `undefined` from the palette, an item of the tree, or the argument of a fix.
    const item = source as Partial<Item> | { identity?: string } | undefined;
    const identity = item && 'identity' in item ? item.identity : undefined;
    let name = typeof identity === 'string' ? identity : identity?.name;
    if (name === undefined) {
      const all = (await agent.identities(this.#binary.path)) ?? [];
      name = await vscode.window.showQuickPick(
        all.map((identity) => identity.name),
        { placeHolder: 'Log in as' },
      );
    }
    if (name === undefined) return;
    // A terminal, because some identities need a typed secret, which must not pass through a message of the editor.
    vscode.window.createTerminal({ name: `pdev login ${name}`, shellPath: this.#binary.path, shellArgs: ['login', name] }).show();
  }

  async #diagnostics(): Promise<void> {
    const text = [
      `pdev ${this.#binary?.version ?? 'not found'} (${this.#binary?.from ?? '-'}: ${this.#binary?.path ?? '-'})`,
      `extension ${(this.#context.extension.packageJSON as { version: string }).version}, VS Code ${vscode.version}, ${process.platform}-${process.arch}`,
      `trusted ${vscode.workspace.isTrusted}, remote ${vscode.env.remoteName ?? 'no'}`,
      `previews ${this.#previews.map((preview) => `${preview.title} ${preview.state}`).join(', ') || 'none'}`,
    ].join('\n');
    await vscode.env.clipboard.writeText(text);
    void vscode.window.showInformationMessage('pdev: copied versions and paths to the clipboard.');
  }
}

/** The server's settings. In an untrusted workspace, they also disable the connection to the agent. */
function settings(): unknown {
  const all = JSON.parse(JSON.stringify(vscode.workspace.getConfiguration('pdev'))) as Record<string, unknown>;
  if (vscode.workspace.isTrusted) return all;
  return { ...all, live: { enabled: false, diagnostics: false, lenses: false } };
}
