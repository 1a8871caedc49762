// Drives VS Code in headless Chromium: edits a manifest with mistakes, as a user would.
// usage: node vscode.cjs PORT PORT-OF-THE-SUITE WORKSPACE PICTURES EXTENSIONS
// Waits for visible elements, not for a fixed time. The exception is before a screenshot, because toasts fade in.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { chromium } = require('playwright-core');

const [port, portOfSuite, workspace, pictures, extensions] = process.argv.slice(2);
const manifest = join(workspace, 'pdev.yaml');
writeFileSync(
  manifest,
  `pdev: 1
app: shop
services:
  web:
    prot: 8080
    health: none
    needs: { api: healthy }
    process: { command: [sleep, "1000"] }
  api:
    health: none
    identity: shop-dev
    process: { command: [sleep, "1001"] }
`,
);

let checks = 0;
let failed = async () => {};
const checked = () => { checks += 1; };
const plain = (text) => text.replaceAll('\u00a0', ' ');

(async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      '--no-first-run', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'],
  });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.setDefaultTimeout(15_000);
  for (let tries = 0; ; tries += 1) {
    try {
      await page.goto(`http://127.0.0.1:${port}/?folder=${workspace}`);
      break;
    } catch (error) {
      // The server does not listen yet.
      if (tries > 200) throw error;
      await page.waitForTimeout(50);
    }
  }
  failed = () => page.screenshot({ path: join(pictures, 'failed.png') });
  const see = (selector, text) => page.locator(selector).filter(text ? { hasText: text } : {}).first().waitFor();
  const picture = async (name) => {
    // Toasts fade in, and an early screenshot would show them half transparent.
    await page.waitForTimeout(600);
    await page.screenshot({ path: join(pictures, `${name}.png`) });
  };
  const command = async (title) => {
    await page.keyboard.press('F1');
    await page.locator('.quick-input-widget input').first().fill(`>${title}`);
    await page.locator('.quick-input-list .monaco-list-row').filter({ hasText: title }).first().click();
  };
  // Use the keyboard, because a panel that opens or closes moves the text under the mouse.
  const goto = async (text) => {
    const lines = readFileSync(manifest, 'utf8').split('\n');
    const line = lines.findIndex((candidate) => candidate.includes(text));
    assert.ok(line >= 0, `${text} is not in the file`);
    await page.keyboard.press('Control+G');
    await page.locator('.quick-input-widget input').first().fill(`:${line + 1},${lines[line].indexOf(text) + 2}`);
    await page.keyboard.press('Enter');
    await page.locator('.quick-input-widget').waitFor({ state: 'hidden' });
  };
  // Returns the menu entry of a fix. Tries again, because new diagnostics close the menu of the old ones.
  const offeredFix = async (text, title) => {
    const fix = page.locator('.action-widget .monaco-list-row').filter({ hasText: title }).first();
    for (let tries = 0; tries < 5; tries += 1) {
      await goto(text);
      await page.keyboard.press('Control+.');
      if (await fix.waitFor({ timeout: 3000 }).then(() => true, () => false)) return fix;
      await page.keyboard.press('Escape');
    }
    await fix.waitFor();
    return fix;
  };
  const trust = async () => {
    await page.locator('.statusbar-item a').filter({ hasText: 'Restricted Mode' }).click();
    await page.locator('.workspace-trust-editor .monaco-button').filter({ hasText: /^Trust$/ }).first().click();
    await see('.workspace-trust-editor', 'You trust this folder');
    await page.locator('.monaco-modal-editor-block .codicon-close').last().click();
    await page.locator('.workspace-trust-editor').waitFor({ state: 'hidden' });
  };
  const editorText = async () => plain(await page.locator('.view-lines').first().innerText());

  await see('.monaco-workbench');
  // Restricted mode: diagnostics work, and actions that start programs are not offered.
  await see('.statusbar-item', 'Restricted Mode');
  await page.locator('.explorer-folders-view .monaco-list-row').filter({ hasText: 'pdev.yaml' }).dblclick();
  await see('.squiggly-error');
  checked();
  assert.equal(await page.locator('.codelens-decoration a').count(), 0, 'no lenses in restricted mode');
  await page.keyboard.press('F1');
  await page.locator('.quick-input-widget input').first().fill('>pdev: ');
  await see('.quick-input-list .monaco-list-row', 'Check the Manifest');
  assert.equal(await page.locator('.quick-input-list .monaco-list-row').filter({ hasText: 'Bring the Preview Up' }).count(), 0);
  checked();
  await page.keyboard.press('Escape');
  await picture('restricted');
  await trust();
  await see('.codelens-decoration a', 'up');
  checked();
  await see('.squiggly-error');
  checked();
  await page.keyboard.press('Control+Shift+M');
  await see('.markers-panel .monaco-list-row', 'unknown key `prot`');
  await see('.markers-panel .monaco-list-row', 'PD0110');
  checked();
  await picture('diagnostics');

  const fix = await offeredFix('prot', 'change `prot` to `port`');
  checked();
  await picture('fix');
  await fix.click();
  await page.waitForFunction(() => !document.querySelector('.squiggly-error'));
  assert.match(await editorText(), /port: 8080/);
  checked();
  await page.keyboard.press('Control+S');
  await page.keyboard.press('Control+Shift+M');

  const word = page.locator('.view-line').filter({ hasText: 'port' }).locator('span span').filter({ hasText: /port/ }).first();
  const hover = page.locator('.monaco-hover').filter({ hasText: 'port' }).first();
  // The panel closes and moves the text away from the mouse, so hover again.
  for (let tries = 0; !(await hover.isVisible()) && tries < 8; tries += 1) {
    await page.mouse.move(900, 700);
    await word.hover();
    await hover.waitFor({ timeout: 2000 }).catch(() => {});
  }
  await hover.waitFor();
  checked();
  await picture('hover');

  await page.locator('.codelens-decoration a').filter({ hasText: 'up' }).first().click();
  await see('.statusbar-item', 'shop/main ready');
  checked();
  await see('.codelens-decoration a', 'restart');
  await see('.codelens-decoration a', 'stop');
  checked();
  await page.locator('.pane-header').filter({ hasText: 'pdev previews' }).click();
  await see('.monaco-list-row', 'shop/main');
  await see('.monaco-list-row', 'api');
  checked();
  await page.locator('.monaco-list-row').filter({ hasText: 'identities' }).locator('.monaco-tl-twistie').click();
  await see('.monaco-list-row', 'needs login');
  // Drag the upper edge of the view up, so that all rows are visible.
  const edge = await page.locator('.pane-header').filter({ hasText: 'pdev previews' }).boundingBox();
  await page.mouse.move(edge.x + 80, edge.y);
  await page.mouse.down();
  await page.mouse.move(edge.x + 80, edge.y - 120, { steps: 5 });
  await page.mouse.up();
  await page.mouse.move(900, 700);
  await see('.monaco-list-row', 'shop-read');
  checked();
  await picture('running');

  // A missing login is reported on the line of the identity, with a fix.
  await see('.markers-panel .monaco-list-row', 'no user is signed in as `shop-dev`');
  const login = await offeredFix('shop-dev', 'Log in as `shop-dev`');
  checked();
  await picture('login');
  await login.click();
  await see('.xterm-rows', 'shop-dev:');
  await page.keyboard.type('not-a-real-token\n');
  // The terminal closes after the login. It covered the list of diagnostics, so show that again.
  await page.locator('.xterm-rows').waitFor({ state: 'detached' });
  await page.keyboard.press('Control+Shift+M');
  await page.waitForFunction(() => ![...document.querySelectorAll('.markers-panel .monaco-list-row')].some((row) => row.textContent.includes('signed in as')));
  await see('.markers-panel .monaco-list-row', 'PD013');
  checked();
  const signedIn = page.locator('.monaco-list-row').filter({ hasText: 'shop-dev' }).filter({ hasNotText: 'needs login' }).first();
  await signedIn.waitFor();
  checked();

  await page.locator('.codelens-decoration a').filter({ hasText: 'shell' }).last().click();
  await see('.part.panel', 'pdev api');
  await see('.xterm-rows', /[$#]/);
  await page.keyboard.type('echo "in $((40 + 2))"\n');
  await see('.xterm-rows', 'in 42');
  checked();
  await picture('shell');

  await page.locator('.codelens-decoration a').filter({ hasText: 'logs' }).last().click();
  await see('.part.panel', 'pdev logs api');
  checked();

  // A terminal of the editor requests another identity. The user approves it in the editor by typing its name.
  writeFileSync(manifest, readFileSync(manifest, 'utf8').replace('    health: none\n    needs', '    health: none\n    identity: shop-read\n    needs'));
  // Stop the agent, so that `up` below starts one from another copy of the program than the extension's.
  execFileSync('pdev', ['agent', 'stop']);
  await page.keyboard.press('Control+Shift+Backquote');
  await see('.xterm-rows', /[$#] *$/);
  await page.keyboard.type(`${join(workspace, '../bin/pdev')} up\n`);
  await see('.xterm-rows', 'identity approve');
  await page.keyboard.press('Control+Shift+M');
  // The earlier terminals ended with the agent, and VS Code shows notifications about that.
  await command('Notifications: Clear All Notifications');
  await see('.markers-panel .monaco-list-row', '`web` runs without the identity `shop-read`');
  checked();
  const approve = await offeredFix('shop-read', 'Approve `shop-read` for `web`');
  await picture('unapproved');
  await approve.click();
  const box = page.locator('.quick-input-widget input').first();
  await see('.quick-input-widget', 'approve the identity shop-read?');
  await box.fill('yes');
  await see('.quick-input-widget', 'not shop-read');
  await box.fill('shop-read');
  await picture('approve');
  await page.keyboard.press('Enter');
  await see('.notification-list-item-message', 'approved');
  await picture('approved');
  await page.locator('.notification-list-item .monaco-button').filter({ hasText: 'Bring it up again' }).first().click();
  await page.waitForFunction(() => ![...document.querySelectorAll('.markers-panel .monaco-list-row')].some((row) => row.textContent.includes('runs without')));
  const identity = () => JSON.parse(execFileSync('pdev', ['ls', '--json'], { encoding: 'utf8' }))[0].units.find(({ name }) => name === 'web').identity;
  for (const end = Date.now() + 15_000; identity() !== 'shop-read'; await page.waitForTimeout(50)) assert.ok(Date.now() < end, 'the service runs without the approved identity');
  checked();

  // A request that came through the editor cannot be approved there.
  execFileSync('pdev', ['identity', 'revoke', 'shop-read']);
  await command('pdev: Bring the Preview Up');
  await see('.markers-panel .monaco-list-row', '`web` runs without the identity `shop-read`');
  await command('pdev: Approve an Identity');
  await see('.notification-list-item-message', 'the request came through this editor');
  await see('.notification-list-item .monaco-button', 'Copy the command');
  checked();
  await picture('elsewhere');
  await command('Notifications: Clear All Notifications');

  for (const [title, tab, text] of [
    ['pdev: Show the Plan', 'plan', 'Nothing would change.'],
    ['pdev: Show All Fields with Their Origins', 'fields', 'services.api.health'],
    ['pdev: Collect a Report', 'report', 'pdev'],
  ]) {
    await command(title);
    await see('.tab.active', tab);
    await see('.editor-group-container.active .view-line', text);
    checked();
    await picture(tab);
  }
  assert.equal(await page.locator('.editor-group-container').count(), 2, 'views share one column');
  await command('View: Close All Editors in Group');
  await command('pdev: Take the Preview Down');
  await page.waitForFunction(() => ![...document.querySelectorAll('.statusbar-item')].some((item) => item.textContent.includes('shop/main ready')));
  checked();
  assert.match(readFileSync(manifest, 'utf8'), /port: 8080/);

  await command('View: Close All Editors');
  await command('View: Hide Panel');
  await command('View: Toggle Primary Side Bar Visibility');
  await command('Welcome: Open Walkthrough');
  await page.locator('.quick-input-list .monaco-list-row').filter({ hasText: 'Run a preview of your application' }).first().click();
  await page.locator('.gettingStartedContainer .step-title').filter({ hasText: 'Bring it up' }).first().click();
  await see('.gettingStartedContainer button, .gettingStartedContainer .monaco-button', 'Bring the Preview Up');
  const media = page.locator('.gettingStartedContainer .image-content img, .gettingStartedContainer .getting-started-media img').first();
  await media.waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll('.gettingStartedContainer img')].some((image) => image.naturalWidth > 600));
  checked();
  await picture('walkthrough');

  // The page of the installed extension has no broken pictures, although the editor has no network access.
  await command('Extensions: Show Installed Extensions');
  await page.locator('.extensions-list .monaco-list-row').filter({ hasText: 'pdev' }).first().click();
  await see('.extension-editor', 'Run your complete application');
  const readme = async () => {
    for (const frame of page.frames()) {
      const body = await frame.locator('body').innerText({ timeout: 1000 }).catch(() => '');
      if (body.includes('pdev for Visual Studio Code')) return frame;
    }
  };
  for (let tries = 0; (await readme()) === undefined; tries += 1) {
    assert.ok(tries < 100, 'the page of the extension has no text');
    await page.waitForTimeout(100);
  }
  assert.equal(await (await readme()).locator('img').count(), 0, 'the page contains a picture that cannot be shown');
  checked();
  await picture('page');

  // Run the suite of the extension host in another window.
  const hostWorkspace = `${workspace}-host`;
  mkdirSync(hostWorkspace);
  const remote = (path) => `vscode-remote://127.0.0.1:${portOfSuite}${path}`;
  const installed = readdirSync(extensions).find((name) => name.startsWith('pdev.pdev-'));
  const payload = [
    ['extensionDevelopmentPath', remote(join(extensions, installed))],
    ['extensionTestsPath', remote(join(__dirname, 'vscode-host.cjs'))],
  ];
  await page.goto(`http://127.0.0.1:${portOfSuite}/?folder=${hostWorkspace}&payload=${encodeURIComponent(JSON.stringify(payload))}`);
  await see('.monaco-workbench');
  await see('.statusbar-item', 'Restricted Mode');
  await trust();
  const result = `${hostWorkspace}.json`;
  for (const end = Date.now() + 90_000; !existsSync(result); ) {
    assert.ok(Date.now() < end, 'the suite in the extension host does not end');
    await page.waitForTimeout(50);
  }
  const inside = JSON.parse(readFileSync(result, 'utf8'));
  assert.equal(inside.error, undefined, inside.error);
  checks += inside.checks;
  await browser.close();
  console.log(`${checks} checks passed`);
})().catch(async (error) => {
  await failed().catch(() => {});
  console.error(error);
  process.exit(1);
});
