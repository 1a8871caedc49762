// What the server asks a person. An answer with `typed` is given only by somebody who types that: another extension can press
// a button for them, and a question that is clicked away without reading must not give an identity to a program.
import * as vscode from 'vscode';
import { MessageType } from 'vscode-languageclient/node';

export interface Answer {
  title: string;
  typed?: string;
  copy?: string;
}

export interface Question {
  type: MessageType;
  message: string;
  actions?: Answer[];
}

export async function answer({ type, message, actions = [] }: Question): Promise<Answer | null> {
  const guarded = actions.find(({ typed }) => typed !== undefined);
  if (guarded?.typed !== undefined) return (await types(message, guarded.typed)) ? guarded : null;
  const tell =
    type === MessageType.Error
      ? vscode.window.showErrorMessage
      : type === MessageType.Warning
        ? vscode.window.showWarningMessage
        : vscode.window.showInformationMessage;
  const title = await tell(message, ...actions.map((one) => one.title));
  const chosen = actions.find((one) => one.title === title);
  if (chosen?.copy !== undefined) await vscode.env.clipboard.writeText(chosen.copy);
  return chosen ?? null;
}

async function types(message: string, word: string): Promise<boolean> {
  const typed = await vscode.window.showInputBox({
    title: `pdev: may it act as ${word}?`,
    prompt: `${message} Type ${word} to approve.`,
    ignoreFocusOut: true,
    validateInput: (value) => (value.trim() === '' || value.trim() === word ? undefined : `not ${word}`),
  });
  return typed?.trim() === word;
}
