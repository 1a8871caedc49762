// A first manifest: written into the folder, because the language server reads files; one that is there is only opened.
import * as vscode from 'vscode';
import { starter } from './model';

export async function begin(): Promise<void> {
  const folders = vscode.workspace.workspaceFolders ?? [];
  const folder = folders.length > 1 ? await vscode.window.showWorkspaceFolderPick({ placeHolder: 'In which folder?' }) : folders[0];
  if (folder === undefined) return;
  const uri = vscode.Uri.joinPath(folder.uri, 'pdev.yaml');
  const there = await vscode.workspace.fs.stat(uri).then(
    () => true,
    () => false,
  );
  if (!there) await vscode.workspace.fs.writeFile(uri, new TextEncoder().encode(starter(folder.name)));
  await vscode.window.showTextDocument(uri);
}
