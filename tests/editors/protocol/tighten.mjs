// Adds rules of the protocol that TypeScript types cannot express: integers and their bounds, and the form of a URI.
// Writes one line per definition, so that diffs are readable.
import { readFileSync } from 'node:fs';

const schema = JSON.parse(readFileSync(0, 'utf8'));
const { definitions } = schema;
definitions.uinteger = { type: 'integer', minimum: 0, maximum: 2147483647 };
definitions.integer = { type: 'integer', minimum: -2147483648, maximum: 2147483647 };
for (const name of ['DocumentUri', 'URI']) definitions[name] = { type: 'string', pattern: '^[a-z][a-z0-9+.-]*:' };
definitions.InitializeResult.additionalProperties = false;
// Brackets are not valid in a `$ref` of JSON Schema, so rename the generic type.
const plain = (text) => text.replaceAll('ServerCapabilities%3Cany%3E', 'ServerCapabilities').replaceAll('ServerCapabilities<any>', 'ServerCapabilities');
const lines = Object.entries(definitions).map(([name, value]) => `    ${plain(JSON.stringify(name))}: ${plain(JSON.stringify(value))}`);
const comment = 'Made by tests/editors/protocol/make from vscode-languageserver-protocol 3.17.5 (MIT, Microsoft Corporation).';
process.stdout.write(`{\n  "$comment": ${JSON.stringify(comment)},\n  "$schema": ${JSON.stringify(schema.$schema)},\n  "definitions": {\n${lines.join(',\n')}\n  }\n}\n`);
