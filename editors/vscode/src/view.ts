// The tree view of previews, their units, and identities. It only shows data; `extension.ts` fetches it.
import * as vscode from 'vscode';
import { type Identity, icon, isStopped, line, type Preview, summary, type Unit } from './model';

export type Item =
  | { kind: 'preview'; preview: Preview }
  | { kind: 'unit'; preview: Preview; unit: Unit }
  | { kind: 'identities' }
  | { kind: 'identity'; identity: Identity };

export class Previews implements vscode.TreeDataProvider<Item> {
  readonly #changed = new vscode.EventEmitter<void>();
  readonly onDidChangeTreeData = this.#changed.event;
  #previews: Preview[] = [];
  #identities: Identity[] = [];

  show(previews: Preview[], identities: Identity[]): void {
    this.#previews = previews;
    this.#identities = identities;
    this.#changed.fire();
  }

  getChildren(item?: Item): Item[] {
    switch (item?.kind) {
      case undefined: {
        const all: Item[] = this.#previews.map((preview) => ({ kind: 'preview', preview }));
        return this.#identities.length === 0 ? all : [...all, { kind: 'identities' }];
      }
      case 'preview':
        return item.preview.units.map((unit) => ({ kind: 'unit', preview: item.preview, unit }));
      case 'identities':
        return this.#identities.map((identity) => ({ kind: 'identity', identity }));
      default:
        return [];
    }
  }

  getTreeItem(item: Item): vscode.TreeItem {
    const { None, Collapsed, Expanded } = vscode.TreeItemCollapsibleState;
    switch (item.kind) {
      case 'preview': {
        const { preview } = item;
        const node = new vscode.TreeItem(preview.title, preview.units.length > 0 ? Expanded : None);
        node.id = `preview ${preview.id}`;
        node.description = summary(preview);
        node.tooltip = `${preview.folder}\n${preview.url ?? ''}`.trim();
        node.iconPath = new vscode.ThemeIcon(icon(preview.state));
        node.contextValue = preview.url === undefined ? 'preview' : 'preview.url';
        return node;
      }
      case 'unit': {
        const { unit } = item;
        const node = new vscode.TreeItem(unit.name, None);
        node.description = line(unit);
        node.tooltip = unit.url ?? '';
        node.iconPath = new vscode.ThemeIcon(icon(unit.state));
        // The menus in package.json match these words.
        node.contextValue = `unit.${isStopped(unit) ? 'stopped' : 'running'}${unit.url === undefined ? '' : '.url'}`;
        return node;
      }
      case 'identities':
        return Object.assign(new vscode.TreeItem('identities', Collapsed), { id: 'identities' });
      case 'identity': {
        const node = new vscode.TreeItem(item.identity.name, None);
        node.description = (item.identity.state ?? '').replaceAll('_', ' ');
        node.iconPath = new vscode.ThemeIcon('key');
        node.contextValue = 'identity';
        return node;
      }
    }
  }
}
