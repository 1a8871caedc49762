// A real OpenID Connect provider (npm oidc-provider) with device flow and rotating refresh tokens.
// usage: node provider.mjs PORT-FILE; wants PDEV_TEST_NODE_MODULES, the folder that holds oidc-provider.
// For tests: GET /test/stats tells how many tokens were asked for, GET /test/tokens each that was ever given; /test/life?seconds=N sets the access token's life;
// /test/pause?ms=N holds each token's answer back after the old one is spent; /test/asked answers when the next token is asked for.
import { createServer } from 'node:http';
import { writeFileSync, renameSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const { default: Provider } = await import(pathToFileURL(`${process.env.PDEV_TEST_NODE_MODULES}/oidc-provider/lib/index.js`).href);
let life = 3600;
const given = [];
let pause = 0;
const waiting = new Set();
const asked = { refresh_token: 0, authorization_code: 0, refused: 0 };

const server = createServer().listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: 'pdev',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
      response_types: ['code'],
      redirect_uris: ['http://127.0.0.1/callback'],
    }],
    features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true }, revocation: { enabled: true } },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: () => true,
    ttl: { AccessToken: () => life, IdToken: 3600, RefreshToken: 86400, DeviceCode: 600, Grant: 86400, Session: 86400, Interaction: 600 },
    cookies: { keys: ['not a secret'] },
  });
  provider.on('grant.success', (context) => { asked[context.oidc.params.grant_type] = (asked[context.oidc.params.grant_type] ?? 0) + 1; });
  provider.on('grant.error', () => { asked.refused += 1; });
  // Opaque tokens are their own identifiers.
  for (const kind of ['access_token', 'refresh_token']) provider.on(`${kind}.saved`, (token) => { given.push(token.jti); });
  const callback = provider.callback();
  server.on('request', (request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (url.pathname === '/test/stats') { response.end(JSON.stringify(asked)); return; }
    if (url.pathname === '/test/tokens') { response.end(JSON.stringify(given)); return; }
    if (url.pathname === '/test/life') { life = Number(url.searchParams.get('seconds')); response.end('ok'); return; }
    if (url.pathname === '/test/pause') { pause = Number(url.searchParams.get('ms')); response.end('ok'); return; }
    if (url.pathname === '/test/asked') { waiting.add(response); request.on('close', () => waiting.delete(response)); response.write('.'); return; }
    if (url.pathname === '/token') {
      for (const other of waiting) other.end('asked');
      waiting.clear();
      const end = response.end.bind(response);
      response.end = (...all) => { setTimeout(() => end(...all), pause); return response; };
    }
    callback(request, response);
  });
  writeFileSync(`${process.argv[2]}.new`, String(port));
  renameSync(`${process.argv[2]}.new`, process.argv[2]);
});
