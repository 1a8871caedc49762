// The command *New Manifest*. Writes a file, because the language server reads files. An existing manifest is only opened.
import * as vscode from 'vscode';
import { starter } from './model';

export async function createManifest(): Promise<void> {
  const folders = vscode.workspace.workspaceFolders ?? [];
  const folder = folders.length > 1 ? await vscode.window.showWorkspaceFolderPick({ placeHolder: 'In which folder?' }) : folders[0];
  if (folder === undefined) return;
  const uri = vscode.Uri.joinPath(folder.uri, 'pdev.yaml');
  const exists = await vscode.workspace.fs.stat(uri).then(
    () => true,
    () => false,
  );
  if (!exists) await vscode.workspace.fs.writeFile(uri, new TextEncoder().encode(starter(folder.name)));
  await vscode.window.showTextDocument(uri);
}
