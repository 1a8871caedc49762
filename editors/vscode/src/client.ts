// The language client, less one habit: it registers the server's commands itself, and only while the server runs. Ours are
// always there, know what they act on, and act in trusted workspaces only.
import { ExecuteCommandRequest, LanguageClient, ShowMessageRequest } from 'vscode-languageclient/node';
import { answer, type Question } from './question';

type Feature = Parameters<LanguageClient['registerFeature']>[0];

export class Client extends LanguageClient {
  constructor(...given: ConstructorParameters<typeof LanguageClient>) {
    super(...given);
    // Terminals, the clipboard and boxes to type into are the editor's: the server uses them where a client says it can.
    this.registerFeature({
      fillClientCapabilities: (capabilities) => {
        capabilities.experimental = {
          ...(capabilities.experimental as object | undefined),
          commands: ['pdev.shell', 'pdev.tail', 'pdev.approve', 'pdev.copy'],
        };
      },
      initialize: () => undefined,
      getState: () => ({ kind: 'static' }),
      clear: () => undefined,
    });
    this.onRequest(ShowMessageRequest.method, (question: Question) => answer(question));
  }

  override registerFeature(feature: Feature): void {
    const { registrationType } = feature as { registrationType?: { method: string } };
    if (registrationType?.method !== ExecuteCommandRequest.method) super.registerFeature(feature);
  }
}
