// The glue: finds the binary, starts the language server, shows what it tells. Everything else is the server's, so that
// every editor has the same.
import * as vscode from 'vscode';
import { type LanguageClientOptions, type ServerOptions, State } from 'vscode-languageclient/node';
import * as agent from './agent';
import { begin } from './begin';
import { candidates, type Found, find } from './binary';
import { Client } from './client';
import { answered, ask, complete, SERVER_COMMANDS, STATIC_COMMANDS, UNIT_COMMANDS, Views } from './commands';
import { type Identity, icon, type Preview, status } from './model';
import { type Item, Previews } from './view';

const QUIET_MS = 200;

let running: Extension | undefined;

/** The editor does not wait for the server: its start is told in the status bar. */
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
  #binary: Found | undefined;
  #previews: Preview[] = [];
  #identities: Identity[] = [];
  #stale = true;
  #soon: NodeJS.Timeout | undefined;

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
      this.#view.onDidChangeVisibility(() => this.#look()),
      vscode.window.onDidChangeActiveTextEditor(() => this.#tell()),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.restart()),
      vscode.workspace.onDidChangeConfiguration((change) => {
        if (change.affectsConfiguration('pdev.path')) void this.restart();
      }),
      ...[...SERVER_COMMANDS, ...Object.keys(UNIT_COMMANDS)].map((name) => command(name, (given) => this.#run(name, given))),
      command('pdev.refresh', () => this.changed()),
      command('pdev.new', () => begin()),
      command('pdev.menu', () => this.#menu()),
      command('pdev.server.restart', () => this.restart()),
      command('pdev.log', () => this.#log.show()),
      command('pdev.diagnostics', () => this.#diagnostics()),
      command('pdev.shell', (given) => this.#terminal('pdev.shell', given)),
      command('pdev.tail', (given) => this.#terminal('pdev.tail', given)),
      command('pdev.login', (given) => this.#login(given)),
    );
  }

  dispose(): void {
    void this.stop();
  }

  async start(): Promise<void> {
    const setting = vscode.workspace.getConfiguration('pdev').get<string>('path', '');
    const all = candidates(setting, vscode.workspace.isTrusted, this.#context.extensionPath);
    const { found, refused } = await find(all);
    for (const one of refused) this.#log.info(`${one.path} (${one.from}) is not used: ${one.reason}`);
    if (found === undefined) return this.#noBinary(refused.map((one) => `${one.path}: ${one.reason}`).join('; '));
    this.#log.info(`${found.path} (${found.from}) is pdev ${found.version}`);
    this.#binary = found;
    this.#client = new Client('pdev', 'pdev', this.#server(found), this.#options());
    this.#client.onDidChangeState(({ newState }) => {
      if (newState === State.Stopped) this.#bar.text = '$(error) pdev';
    });
    try {
      await this.#client.start();
    } catch (error) {
      // The client has shown its own words; the log has the rest.
      this.#log.error(`the language server does not start: ${String(error)}`);
      this.#bar.text = '$(error) pdev';
      return;
    }
    this.changed();
  }

  #server(found: Found): ServerOptions {
    return { command: found.path, args: ['lsp'] };
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
          didChangeConfiguration: (sections, next) => (vscode.workspace.isTrusted ? next(sections) : Promise.resolve()),
        },
        // Lenses and findings are asked for anew when the server heard of a change: the sign that ours is old, too.
        provideCodeLenses: (document, token, next) => {
          this.#later();
          return next(document, token);
        },
        provideDiagnostics: (document, previous, token, next) => {
          this.#later();
          return next(document, previous, token);
        },
      },
    };
  }

  /** What a lens, the tree or the palette asked for. */
  async #run(name: string, given: unknown): Promise<unknown> {
    if (!vscode.workspace.isTrusted && !STATIC_COMMANDS.has(name)) {
      const trust = 'Manage Trust';
      const chosen = await vscode.window.showWarningMessage(
        'pdev acts in trusted workspaces only: a manifest names programs to run.',
        trust,
      );
      if (chosen === trust) await vscode.commands.executeCommand('workbench.trust.manage');
      return undefined;
    }
    const client = this.#client;
    if (!client?.isRunning()) {
      const chosen = await vscode.window.showErrorMessage('pdev: the language server does not run.', 'Restart It', 'Show the Log');
      if (chosen === 'Restart It') await this.restart();
      else if (chosen !== undefined) this.#log.show();
      return undefined;
    }
    const argument = await complete(client, name, given);
    if (argument === undefined) return undefined;
    try {
      const result = await ask<unknown>(client, UNIT_COMMANDS[name] ?? name, argument);
      await answered(name, argument, result, this.#views);
      return result;
    } catch (error) {
      void vscode.window.showErrorMessage(`pdev: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }

  async stop(): Promise<void> {
    clearTimeout(this.#soon);
    const client = this.#client;
    this.#client = undefined;
    if (client?.needsStop()) await client.stop(2000);
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** Lenses are also asked for while somebody types: once after the last of them is enough. */
  #later(): void {
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => this.changed(), QUIET_MS);
  }

  /** Something happened: the view is asked for again, at once where it is seen, else when it will be. */
  changed(): void {
    this.#stale = true;
    void this.#look();
  }

  async #look(): Promise<void> {
    if (!this.#stale || this.#binary === undefined || !vscode.workspace.isTrusted) return this.#tell();
    // Unseen, the view is not asked for: it stays stale until somebody looks.
    this.#stale = !this.#view.visible;
    const { path } = this.#binary;
    const live = vscode.workspace.getConfiguration('pdev').get<boolean>('live.enabled', true);
    this.#previews = live ? await this.#known() : [];
    // What cannot be told now is shown as it was.
    if (!live) this.#identities = [];
    else if (this.#view.visible) this.#identities = (await agent.identities(path)) ?? this.#identities;
    this.#tree.show(this.#previews, this.#identities);
    this.#tell();
  }

  /** The open manifests' previews from the server, which knows them already; all of them only for who looks. */
  async #known(): Promise<Preview[]> {
    if (this.#view.visible && this.#binary !== undefined) return (await agent.previews(this.#binary.path)) ?? this.#previews;
    const open = vscode.workspace.textDocuments.filter((document) => document.languageId === 'pdev');
    const asked = open.map((document) =>
      this.#client ? ask<Preview>(this.#client, 'pdev.status', { uri: document.uri.toString() }).catch(() => undefined) : undefined,
    );
    return (await Promise.all(asked)).filter((preview): preview is Preview => preview !== undefined && preview !== null);
  }

  #tell(): void {
    if (this.#client === undefined) return;
    const active = vscode.window.activeTextEditor?.document.uri;
    const folder = active && vscode.Uri.joinPath(active, '..').fsPath;
    this.#bar.text = status(this.#previews, folder);
    const lines = this.#previews.map((preview) => `$(${icon(preview.state)}) ${preview.title}: ${preview.state}`);
    this.#bar.tooltip = new vscode.MarkdownString(lines.length > 0 ? lines.join('  \n') : 'No preview runs here.', true);
  }

  async #noBinary(why: string): Promise<void> {
    this.#bar.text = '$(error) pdev';
    this.#bar.tooltip = `No pdev program runs: ${why}`;
    const path = 'Set the Path';
    const chosen = await vscode.window.showErrorMessage(`No pdev program runs here: ${why}.`, path, 'Show the Log');
    if (chosen === path) await vscode.commands.executeCommand('workbench.action.openSettings', 'pdev.path');
    else if (chosen !== undefined) this.#log.show();
  }

  async #menu(): Promise<void> {
    const names = [
      ['$(play) Bring the preview up', 'pdev.up'],
      ['$(link-external) Open in browser', 'pdev.open'],
      ['$(output) Show logs', 'pdev.logs'],
      ['$(debug-restart) Restart', 'pdev.restart'],
      ['$(debug-stop) Take it down', 'pdev.stop'],
      ['$(diff) Show what up would do', 'pdev.diff'],
      ['$(key) Log in', 'pdev.login'],
      ['$(verified) Approve an identity', 'pdev.approve'],
      ['$(gear) Show the log', 'pdev.log'],
    ] as const;
    const picks = names.map(([label, command]) => ({ label, command }));
    const chosen = await vscode.window.showQuickPick(picks, { placeHolder: `pdev ${this.#binary?.version ?? ''}` });
    if (chosen !== undefined) await vscode.commands.executeCommand(chosen.command);
  }

  async #terminal(name: 'pdev.shell' | 'pdev.tail', given: unknown): Promise<void> {
    if (this.#client === undefined || this.#binary === undefined) return;
    const argument = await complete(this.#client, name, given);
    if (argument?.uri === undefined || argument.unit === undefined) return;
    const { unit } = argument;
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

  async #login(given: unknown): Promise<void> {
    if (this.#binary === undefined) return;
    // From the palette (nothing), the tree (an item) or a finding (an argument).
    const item = given as Partial<Item> | { identity?: string } | undefined;
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
    void vscode.window.showInformationMessage('pdev: versions and paths are on the clipboard.');
  }
}

/** What the server is told. In an untrusted workspace it does not look for the agent either. */
function settings(): unknown {
  const all = JSON.parse(JSON.stringify(vscode.workspace.getConfiguration('pdev'))) as Record<string, unknown>;
  if (vscode.workspace.isTrusted) return all;
  return { ...all, live: { enabled: false, diagnostics: false, lenses: false } };
}
