// The language client, less one habit: it registers the server's commands itself, and only while the server runs. Ours are
// always there, know what they act on, and act in trusted workspaces only.
import { ExecuteCommandRequest, LanguageClient } from 'vscode-languageclient/node';

type Feature = Parameters<LanguageClient['registerFeature']>[0];

export class Client extends LanguageClient {
  constructor(...given: ConstructorParameters<typeof LanguageClient>) {
    super(...given);
    // A terminal is the editor's: the server offers shells to clients that say they open them.
    this.registerFeature({
      fillClientCapabilities: (capabilities) => {
        capabilities.experimental = { ...(capabilities.experimental as object | undefined), commands: ['pdev.shell'] };
      },
      initialize: () => undefined,
      getState: () => ({ kind: 'static' }),
      clear: () => undefined,
    });
  }

  override registerFeature(feature: Feature): void {
    const { registrationType } = feature as { registrationType?: { method: string } };
    if (registrationType?.method !== ExecuteCommandRequest.method) super.registerFeature(feature);
  }
}
