// Maps each message that a server may send to its type: results by request, and requests and notifications of the server.
// The types are those of the protocol's authors. `make` generates the schema for the wire tests from this file.
import type * as lsp from 'vscode-languageserver-protocol';

/** Results, by the request of the client. */
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

/** Parameters of the server's own requests and notifications. */
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

/** Options of dynamic registrations. */
export interface Registered {
  'workspace/didChangeWatchedFiles': lsp.DidChangeWatchedFilesRegistrationOptions;
}

export interface Protocol {
  results: Results;
  sent: Sent;
  registered: Registered;
}
