// Questions of the server to the user. An action with `typed` is chosen only if the user types that text, for two reasons:
// another extension can press buttons, and a dialog confirmed without reading must not grant an identity to a program.
import * as vscode from 'vscode';
import { MessageType } from 'vscode-languageclient/node';

export interface Action {
  title: string;
  typed?: string;
  copy?: string;
}

export interface Question {
  type: MessageType;
  message: string;
  actions?: Action[];
}

export async function showQuestion({ type, message, actions = [] }: Question): Promise<Action | null> {
  const guarded = actions.find(({ typed }) => typed !== undefined);
  if (guarded?.typed !== undefined) return (await confirmByTyping(message, guarded.typed)) ? guarded : null;
  const showMessage =
    type === MessageType.Error
      ? vscode.window.showErrorMessage
      : type === MessageType.Warning
        ? vscode.window.showWarningMessage
        : vscode.window.showInformationMessage;
  const title = await showMessage(message, ...actions.map((action) => action.title));
  const chosen = actions.find((action) => action.title === title);
  if (chosen?.copy !== undefined) await vscode.env.clipboard.writeText(chosen.copy);
  return chosen ?? null;
}

async function confirmByTyping(message: string, word: string): Promise<boolean> {
  const typed = await vscode.window.showInputBox({
    title: `pdev: approve the identity ${word}?`,
    prompt: `${message} Type ${word} to approve.`,
    // Keep the box open when the user clicks elsewhere, for example to read the manifest.
    ignoreFocusOut: true,
    validateInput: (value) => (value.trim() === '' || value.trim() === word ? undefined : `not ${word}`),
  });
  return typed?.trim() === word;
}
