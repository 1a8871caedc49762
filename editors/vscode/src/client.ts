// A language client that does not register the server's commands. The stock client registers them only while the server
// runs. The commands of this extension always exist, select their target, and need a trusted workspace.
import { ExecuteCommandRequest, LanguageClient, ShowMessageRequest } from 'vscode-languageclient/node';
import { type Question, showQuestion } from './question';

type Feature = Parameters<LanguageClient['registerFeature']>[0];

export class Client extends LanguageClient {
  constructor(...args: ConstructorParameters<typeof LanguageClient>) {
    super(...args);
    // The server uses terminals, the clipboard and input boxes only if the client lists these commands.
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
    this.onRequest(ShowMessageRequest.method, (question: Question) => showQuestion(question));
  }

  override registerFeature(feature: Feature): void {
    const { registrationType } = feature as { registrationType?: { method: string } };
    if (registrationType?.method !== ExecuteCommandRequest.method) super.registerFeature(feature);
  }
}
