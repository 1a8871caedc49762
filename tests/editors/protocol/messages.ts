// What the protocol says of each message that a server may send: results by request, and its own requests and
// notifications. The types are those of the protocol's authors; `make` turns them into the schema that the wire tests use.
import type * as lsp from 'vscode-languageserver-protocol';

/** What a server answers. */
export interface Results {
  'codeAction/resolve': lsp.CodeAction;
  'codeLens/resolve': lsp.CodeLens;
  'completionItem/resolve': lsp.CompletionItem;
  'documentLink/resolve': lsp.DocumentLink;
  'inlayHint/resolve': lsp.InlayHint;
  initialize: lsp.InitializeResult;
  shutdown: null;
  'textDocument/codeAction': (lsp.Command | lsp.CodeAction)[] | null;
  'textDocument/codeLens': lsp.CodeLens[] | null;
  'textDocument/completion': lsp.CompletionItem[] | lsp.CompletionList | null;
  'textDocument/definition': lsp.Definition | lsp.DefinitionLink[] | null;
  'textDocument/diagnostic': lsp.DocumentDiagnosticReport;
  'textDocument/documentHighlight': lsp.DocumentHighlight[] | null;
  'textDocument/documentLink': lsp.DocumentLink[] | null;
  'textDocument/documentSymbol': lsp.SymbolInformation[] | lsp.DocumentSymbol[] | null;
  'textDocument/foldingRange': lsp.FoldingRange[] | null;
  'textDocument/formatting': lsp.TextEdit[] | null;
  'textDocument/hover': lsp.Hover | null;
  'textDocument/inlayHint': lsp.InlayHint[] | null;
  'textDocument/onTypeFormatting': lsp.TextEdit[] | null;
  'textDocument/prepareRename': lsp.PrepareRenameResult | null;
  'textDocument/rangeFormatting': lsp.TextEdit[] | null;
  'textDocument/references': lsp.Location[] | null;
  'textDocument/rename': lsp.WorkspaceEdit | null;
  'textDocument/selectionRange': lsp.SelectionRange[] | null;
  'textDocument/semanticTokens/full': lsp.SemanticTokens | null;
  'textDocument/semanticTokens/full/delta': lsp.SemanticTokens | lsp.SemanticTokensDelta | null;
  'textDocument/semanticTokens/range': lsp.SemanticTokens | null;
  'workspace/diagnostic': lsp.WorkspaceDiagnosticReport;
  'workspace/executeCommand': lsp.LSPAny;
  'workspace/symbol': lsp.SymbolInformation[] | lsp.WorkspaceSymbol[] | null;
}

/** What a server asks and tells of its own accord: the parameters. */
export interface Sent {
  '$/progress': { token: lsp.ProgressToken; value: lsp.WorkDoneProgressBegin | lsp.WorkDoneProgressReport | lsp.WorkDoneProgressEnd };
  'client/registerCapability': lsp.RegistrationParams;
  'client/unregisterCapability': lsp.UnregistrationParams;
  'textDocument/publishDiagnostics': lsp.PublishDiagnosticsParams;
  'window/logMessage': lsp.LogMessageParams;
  'window/showDocument': lsp.ShowDocumentParams;
  'window/showMessage': lsp.ShowMessageParams;
  'window/showMessageRequest': lsp.ShowMessageRequestParams;
  'window/workDoneProgress/create': lsp.WorkDoneProgressCreateParams;
  'workspace/applyEdit': lsp.ApplyWorkspaceEditParams;
  'workspace/codeLens/refresh': undefined;
  'workspace/configuration': lsp.ConfigurationParams;
  'workspace/diagnostic/refresh': undefined;
  'workspace/inlayHint/refresh': undefined;
  'workspace/semanticTokens/refresh': undefined;
}

/** What goes with a registration. */
export interface Registered {
  'workspace/didChangeWatchedFiles': lsp.DidChangeWatchedFilesRegistrationOptions;
}

export interface Protocol {
  results: Results;
  sent: Sent;
  registered: Registered;
}
