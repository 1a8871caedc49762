// A real OpenID Connect provider (npm oidc-provider) with device flow and rotating refresh tokens.
// usage: node provider.mjs PORT-FILE; needs PDEV_TEST_NODE_MODULES, the folder that contains oidc-provider.
// For tests:
//   GET /test/stats            the number of token requests by grant type, and of rejected ones
//   GET /test/tokens           all issued tokens
//   GET /test/life?seconds=N   set the lifetime of access tokens
//   GET /test/pause?ms=N       delay each response of /token, after the old refresh token is spent
//   GET /test/requested        respond when the next token is requested
import { createServer } from 'node:http';
import { writeFileSync, renameSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const { default: Provider } = await import(pathToFileURL(`${process.env.PDEV_TEST_NODE_MODULES}/oidc-provider/lib/index.js`).href);
let life = 3600;
const issued = [];
let pause = 0;
const waiting = new Set();
const stats = { refresh_token: 0, authorization_code: 0, refused: 0 };

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
  provider.on('grant.success', (context) => { stats[context.oidc.params.grant_type] = (stats[context.oidc.params.grant_type] ?? 0) + 1; });
  provider.on('grant.error', () => { stats.refused += 1; });
  // Opaque tokens are their own identifiers.
  for (const kind of ['access_token', 'refresh_token']) provider.on(`${kind}.saved`, (token) => { issued.push(token.jti); });
  const callback = provider.callback();
  server.on('request', (request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (url.pathname === '/test/stats') { response.end(JSON.stringify(stats)); return; }
    if (url.pathname === '/test/tokens') { response.end(JSON.stringify(issued)); return; }
    if (url.pathname === '/test/life') { life = Number(url.searchParams.get('seconds')); response.end('ok'); return; }
    if (url.pathname === '/test/pause') { pause = Number(url.searchParams.get('ms')); response.end('ok'); return; }
    if (url.pathname === '/test/requested') { waiting.add(response); request.on('close', () => waiting.delete(response)); response.write('.'); return; }
    if (url.pathname === '/token') {
      for (const other of waiting) other.end('requested');
      waiting.clear();
      // Delay only the end of the response: the provider has already processed the request.
      const end = response.end.bind(response);
      response.end = (...args) => { setTimeout(() => end(...args), pause); return response; };
    }
    callback(request, response);
  });
  // The caller waits for this file, so rename it into place, or it could read an empty file.
  writeFileSync(`${process.argv[2]}.new`, String(port));
  renameSync(`${process.argv[2]}.new`, process.argv[2]);
});
