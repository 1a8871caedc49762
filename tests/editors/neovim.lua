-- Runs inside Neovim and edits a manifest with mistakes, as a user would. Stops at the first failed check. Waits for
-- conditions, never for a fixed time.
local checks = 0
local function check(condition, description)
  if not condition then
    error('failed: ' .. description, 2)
  end
  checks = checks + 1
end
local function wait_for(description, condition)
  check(vim.wait(15000, condition, 10), description)
end
local function write(text)
  local file = assert(io.open('pdev.yaml', 'w'))
  file:write(text)
  file:close()
end

write([[
pdev: 1
app: nvim
services:
  web:
    prot: 8080
    health: none
    process: { command: [sleep, "1000"] }
  api:
    health: none
    needs: [web]
    process: { command: [sleep, "1001"] }
]])
vim.cmd('filetype plugin on')
vim.cmd.edit('pdev.yaml')
local buffer = vim.api.nvim_get_current_buf()
check(vim.bo.filetype == 'yaml.pdev', 'the file type is yaml.pdev, found ' .. vim.bo.filetype)
check(vim.bo.shiftwidth == 2 and vim.bo.expandtab, 'the indentation is two spaces')

wait_for('the server attaches', function()
  local client = vim.lsp.get_clients({ name = 'pdev', bufnr = buffer })[1]
  return client and client.initialized
end)
local client = vim.lsp.get_clients({ name = 'pdev' })[1]

local function codes()
  return vim.tbl_map(function(diagnostic)
    return diagnostic.code
  end, vim.diagnostic.get(buffer))
end
wait_for('the misspelt key is reported', function()
  return vim.tbl_contains(codes(), 'PD0110')
end)
local misspelt = vim.tbl_filter(function(diagnostic)
  return diagnostic.code == 'PD0110'
end, vim.diagnostic.get(buffer))[1]
check(misspelt.lnum == 4 and misspelt.col == 4 and misspelt.end_col == 8, 'the diagnostic marks the key')
check(misspelt.source == 'pdev', 'the diagnostic has the source pdev')
check(misspelt.message:find('port'), 'the message suggests the correct key')

vim.api.nvim_win_set_cursor(0, { 5, 5 })
vim.lsp.buf.code_action({
  context = { only = { 'quickfix' }, diagnostics = { misspelt.user_data.lsp } },
  filter = function(action)
    return action.isPreferred
  end,
  apply = true,
})
wait_for('the fix is applied', function()
  return vim.api.nvim_buf_get_lines(buffer, 4, 5, false)[1] == '    port: 8080'
end)
wait_for('the diagnostic disappears', function()
  return not vim.tbl_contains(codes(), 'PD0110')
end)

local function request(method, params)
  local response = client:request_sync(method, params, 10000, buffer)
  if not response or response.err then
    error(method .. ': ' .. vim.inspect(response and response.err), 2)
  end
  return response.result
end
local function at(line, character)
  return { textDocument = { uri = vim.uri_from_bufnr(0) }, position = { line = line, character = character } }
end

vim.api.nvim_buf_set_lines(buffer, 6, 6, false, { '    re' })
local completion = request('textDocument/completion', at(6, 6))
local labels = vim.tbl_map(function(item)
  return item.label
end, completion.items or completion)
check(vim.tbl_contains(labels, 'restart'), 'completion offers `restart`: ' .. table.concat(labels, ' '))
vim.api.nvim_buf_set_lines(buffer, 6, 7, false, {})

local hover = request('textDocument/hover', at(4, 5))
check(vim.inspect(hover):lower():find('port'), 'hover describes the port')

vim.api.nvim_win_set_cursor(0, { 4, 3 })
vim.lsp.buf.rename('shop')
wait_for('rename changes every reference', function()
  local text = table.concat(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), '\n')
  return text:find('\n  shop:') and text:find('needs: %[shop%]')
end)

vim.cmd.write()
vim.cmd('Pdev up')
wait_for('the preview is ready', function()
  local result = client:request_sync('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } }, 5000)
  return result and result.result and result.result.state == 'ready'
end)
wait_for('the statusline shows the state without a request', function()
  return require('pdev').status() == 'nvim/main ready'
end)
vim.lsp.inlay_hint.enable(true)
wait_for('each unit has its state as a hint', function()
  local labels = vim.tbl_map(function(hint)
    return hint.inlay_hint.label
  end, vim.lsp.inlay_hint.get({ bufnr = buffer }))
  return vim.tbl_contains(labels, 'ready')
end)
vim.cmd('Pdev status')
wait_for('the units are shown in a window', function()
  local text = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
  return text:find('nvim/main  ready') and text:find('shop')
end)
vim.cmd.close()
local lenses = request('textDocument/codeLens', { textDocument = { uri = vim.uri_from_bufnr(buffer) } })
local titles = vim.tbl_map(function(lens)
  return lens.command.title
end, lenses)
check(#titles > 2, 'the services have lenses: ' .. table.concat(titles, ', '))
local function lens(title)
  return vim.iter(lenses):find(function(candidate)
    return candidate.command.title == title
  end)
end
check(lens('shell'), 'a lens offers a shell: ' .. table.concat(titles, ', '))
check(vim.tbl_contains(require('pdev').complete('re', 'Pdev re'), 'restart'), ':Pdev completes commands')
client:exec_cmd(lens('shell').command, { bufnr = buffer })
local shell = vim.api.nvim_get_current_buf()
vim.api.nvim_chan_send(vim.bo.channel, 'echo "in $((40 + 2))"\r')
wait_for('the shell runs in a terminal', function()
  return table.concat(vim.api.nvim_buf_get_lines(shell, 0, -1, false), '\n'):find('in 42')
end)
vim.cmd('bwipeout!')
local function check_window(command, name, text_part)
  vim.cmd('Pdev ' .. command)
  local text
  local opened = vim.wait(15000, function()
    text = vim.api.nvim_buf_get_name(0) .. '\n' .. table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
    return text:find(name, 1, true) and text:find(text_part, 1, true) ~= nil
  end, 10)
  check(opened, ':Pdev ' .. command .. ' shows ' .. text_part .. ', found ' .. text)
  vim.cmd.close()
end
check_window('render api', 'pdev://render/api', 'services.api.health')
check_window('plan', 'pdev://plan', 'nothing would change')
check_window('report', 'pdev://report', 'pdev ')

-- Stop one service by its lens. The other one keeps running, and the stopped one is not reported as drift.
local function lens_of(unit_name, title_part)
  local all = request('textDocument/codeLens', { textDocument = { uri = vim.uri_from_bufnr(buffer) } })
  return vim.iter(all):find(function(candidate)
    return candidate.command.title:find(title_part, 1, true) and (candidate.command.arguments[1] or {}).unit == unit_name
  end)
end
local function state(name)
  local result = request('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } })
  return vim.iter(result.units):find(function(candidate)
    return candidate.name == name
  end).state
end
wait_for('the service has a stop lens', function()
  return lens_of('api', 'stop')
end)
client:exec_cmd(lens_of('api', 'stop').command, { bufnr = buffer })
wait_for('only this service is stopped', function()
  return state('api') == 'stopped' and state('shop') == 'ready'
end)
check(not vim.tbl_contains(codes(), 'drift'), 'a stopped service is not reported as drift')
wait_for('the service has a start lens', function()
  return lens_of('api', 'start') and not lens_of('api', 'stop')
end)
local select = vim.ui.select
if vim.fn.has('nvim-0.12') == 1 then
  -- Run the lens under the cursor, as the key mapping does.
  vim.lsp.codelens.enable(true, { bufnr = buffer })
  wait_for('Neovim has the lenses', function()
    return vim.iter(vim.lsp.codelens.get({ bufnr = buffer })):find(function(entry)
      return entry.lens.command and entry.lens.command.title == '▶ start'
    end)
  end)
  for number, text in ipairs(vim.api.nvim_buf_get_lines(buffer, 0, -1, false)) do
    if text:find('^  api:') then
      vim.api.nvim_win_set_cursor(0, { number, 3 })
    end
  end
  vim.ui.select = function(items, opts, done)
    for index, item in ipairs(items) do
      if opts.format_item(item):find('start', 1, true) then
        return done(item, index)
      end
    end
  end
  vim.lsp.codelens.run()
else
  client:exec_cmd(lens_of('api', 'start').command, { bufnr = buffer })
end
wait_for('the service runs again', function()
  return state('api') == 'ready'
end)
vim.ui.select = select
check(vim.tbl_contains(require('pdev').complete('', 'Pdev stop '), 'api'), ':Pdev stop completes services')
vim.cmd('Pdev stop api')
wait_for(':Pdev stops only this service', function()
  return state('api') == 'stopped' and state('shop') == 'ready'
end)
vim.cmd('Pdev up api')
wait_for(':Pdev starts the service', function()
  return state('api') == 'ready'
end)
vim.cmd('Pdev restart shop')
wait_for(':Pdev restarts the other service', function()
  return state('shop') == 'ready'
end)

-- Move a literal into the vault. The service prints the length of the secret, because it must not print the value.
local value = 'sk_test_' .. 'not_anywhere_else'
local function line_of(text_part)
  for number, text in ipairs(vim.api.nvim_buf_get_lines(buffer, 0, -1, false)) do
    if text:find(text_part, 1, true) then
      return number
    end
  end
end
local api = line_of('1001')
vim.api.nvim_buf_set_lines(buffer, api - 1, api, false, {
  '    env: { STRIPE_KEY: ' .. value .. ' }',
  [[    process: { command: [sh, -c, 'read -r key <"$STRIPE_KEY_FILE"; echo the key has $${#key}; exec sleep 1001'] }]],
})
vim.api.nvim_win_set_cursor(0, { api, 15 })
vim.lsp.buf.code_action({
  filter = function(action)
    return action.title:find('into the vault') ~= nil
  end,
  apply = true,
})
wait_for('the manifest references the secret', function()
  return line_of('STRIPE_KEY_FILE: "${secrets.stripe-key.path}"')
end)
check(not line_of(value), 'the manifest no longer contains the value')
vim.cmd.write()
local stored = vim.system({ 'pdev', 'secret', 'list' }, { text = true }):wait()
check(stored.code == 0 and stored.stdout:find('stripe'), 'the vault contains the secret: ' .. stored.stdout .. stored.stderr)
local work = vim.fs.dirname(vim.fn.getcwd())
local leaks = vim.system({ 'grep', '-rlF', value, work }, { text = true }):wait()
check(leaks.stdout == '', 'no file contains the value: ' .. leaks.stdout)
vim.cmd('Pdev up')
local function logs_contain(text_part)
  return function()
    local result = request('workspace/executeCommand', { command = 'pdev.logs', arguments = { { uri = vim.uri_from_bufnr(buffer), unit = 'api' } } })
    return vim.inspect(result):find(text_part, 1, true)
  end
end
wait_for('the service has the value', logs_contain('the key has ' .. #value))

-- A service requests an identity in a terminal outside the editor; the user approves it in the editor.
local function terminal(command)
  return vim.system({ 'python3', vim.env.PDEV_TERMINAL, command }, { text = true }):wait(60000).stdout
end
local function needs_approval()
  return vim.iter(vim.diagnostic.get(buffer)):find(function(diagnostic)
    return diagnostic.code == 'needs_approval'
  end)
end
local function unit(name)
  local result = request('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } })
  return vim.iter(result.units):find(function(candidate)
    return candidate.name == name
  end)
end
api = line_of('  api:')
vim.api.nvim_buf_set_lines(buffer, api, api, false, { '    identity: shop-dev' })
vim.cmd.write()
local up_output = terminal('pdev up')
check(up_output:find('pdev identity approve'), '`up` prints the command: ' .. up_output)
wait_for('the service without its identity is reported', needs_approval)
check(needs_approval().lnum == api, 'the diagnostic is on the line of the identity')
local typed, input_prompt
vim.ui.input = function(opts, done)
  input_prompt = opts.prompt
  done(typed)
end
local choice, select_prompt
vim.ui.select = function(items, opts, done)
  select_prompt = opts.prompt
  done(vim.iter(items):find(function(item)
    return item.title == choice
  end))
end
local function approvals()
  return vim.system({ 'pdev', 'identity', 'approvals', '--json' }, { text = true }):wait().stdout
end
local function approve()
  input_prompt = nil
  vim.api.nvim_win_set_cursor(0, { api + 1, 16 })
  vim.lsp.buf.code_action({
    context = { only = { 'quickfix' }, diagnostics = { needs_approval().user_data.lsp } },
    filter = function(action)
      return action.title:find('^Approve') ~= nil
    end,
    apply = true,
  })
end
typed = 'yes'
approve()
wait_for('the user is prompted', function()
  return input_prompt
end)
check(input_prompt:find('`api` of .* would act as `shop%-dev`'), 'the prompt names service and identity: ' .. input_prompt)
check(vim.trim(approvals()) == '[]', 'a wrong word approves nothing')
typed, choice = 'shop-dev', 'Bring it up again'
approve()
wait_for('typing the name approves, and the service gets its identity', function()
  return unit('api').identity == 'shop-dev'
end)
wait_for('the diagnostic disappears after the approval', function()
  return not needs_approval()
end)

-- The editor cannot approve a request that came through it, because a program may have pressed the key.
check(vim.system({ 'pdev', 'identity', 'revoke', 'shop-dev' }):wait().code == 0, 'the approval can be revoked')
vim.cmd('Pdev up')
wait_for('the service runs without its identity again', needs_approval)
input_prompt, select_prompt, choice = nil, nil, 'Copy the command'
vim.cmd('Pdev approve api')
wait_for('the command for another terminal is shown', function()
  return select_prompt and select_prompt:find('the request came through this editor', 1, true)
end)
check(not input_prompt, 'the user is not prompted for the name')
local command = select_prompt:match('pdev identity approve [%w-]+')
wait_for('the command is copied', function()
  return command and (vim.fn.getreg('"') == command or vim.fn.getreg('+') == command)
end)

-- The running preview differs from the manifest, and the fix applies the manifest.
local function diagnostic_with(code)
  return vim.iter(vim.diagnostic.get(buffer)):find(function(diagnostic)
    return diagnostic.code == code
  end)
end
local web = line_of('1000')
vim.api.nvim_buf_set_lines(buffer, web - 1, web - 1, false, { '    env: { LEVEL: debug }' })
vim.cmd.write()
wait_for('drift is reported', function()
  return diagnostic_with('drift')
end)
local function apply_fix(code, title_pattern)
  local diagnostic = assert(diagnostic_with(code), code)
  vim.api.nvim_win_set_cursor(0, { diagnostic.lnum + 1, diagnostic.col + 1 })
  vim.lsp.buf.code_action({
    context = { only = { 'quickfix' }, diagnostics = { diagnostic.user_data.lsp } },
    filter = function(action)
      return action.title:find(title_pattern) ~= nil
    end,
    apply = true,
  })
end
apply_fix('drift', '^Apply')
wait_for('the manifest is applied', function()
  return not diagnostic_with('drift') and unit('shop').state == 'ready'
end)

-- A crash is reported on the line of its service, with the last log line.
local services = line_of('  api:')
vim.api.nvim_buf_set_lines(buffer, services - 1, services - 1, false, {
  '  bad:',
  '    health: none',
  '    restart: never',
  [[    process: { command: [sh, -c, 'echo "cannot reach the moon"; exit 3'] }]],
})
vim.cmd.write()
vim.cmd('Pdev up')
wait_for('the crash is reported with its last log line', function()
  local crash = vim.iter(vim.diagnostic.get(buffer)):find(function(diagnostic)
    return diagnostic.source == 'pdev (live)' and diagnostic.message:find('cannot reach the moon', 1, true)
  end)
  return crash and crash.lnum >= services - 1 and crash.lnum <= services + 3
end)
local unit_hover = request('textDocument/hover', at(line_of('  shop:') - 1, 3))
check(vim.inspect(unit_hover):find('ready after %d+ ms'), 'hover shows the time until ready: ' .. vim.inspect(unit_hover))

-- The commands that show text.
vim.cmd('Pdev check')
wait_for(':Pdev check fills the quickfix list', function()
  return vim.fn.getqflist({ title = 0 }).title == 'pdev check'
end)
vim.cmd.cclose()
vim.cmd.buffer(buffer)
vim.cmd('Pdev tail api')
local tail = vim.api.nvim_get_current_buf()
wait_for(':Pdev tail follows in a terminal', function()
  return vim.bo[tail].buftype == 'terminal'
    and table.concat(vim.api.nvim_buf_get_lines(tail, 0, -1, false), '\n'):find('the key has ' .. #value, 1, true)
end)
vim.cmd('bwipeout!')
vim.cmd.buffer(buffer)
check_window('logs api', 'pdev://logs/api', 'the key has ' .. #value)
local notifications = {}
vim.notify = function(text, level)
  notifications[#notifications + 1] = { text = text, level = level }
end
local function notified(text_part)
  return function()
    return vim.iter(notifications):find(function(notification)
      return notification.text:find(text_part, 1, true)
    end)
  end
end
local opened
vim.ui.open = function(url)
  opened = url
  return nil, nil
end
vim.cmd('Pdev open shop')
wait_for(':Pdev open opens the URL', function()
  return opened and opened:find('^http://shop%.')
end)
vim.cmd('Pdev open api')
wait_for('a missing URL is reported', notified('`api` has no URL'))
vim.cmd('Pdev nonsense')
wait_for('an unknown command is reported', notified('no command `nonsense`'))
vim.cmd('Pdev shell')
wait_for('a shell without a service is rejected', notified('name the service'))
vim.cmd('Pdev stop moon')
wait_for('an unknown service is reported by the agent', function()
  return client:request_sync('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } }, 5000)
    and notified('there is no unit `moon`')()
end)

vim.cmd('Pdev stop')
wait_for('the preview is down again', function()
  return require('pdev').status() == '' or require('pdev').status() == 'nvim/main down'
end)

vim.cmd.checkhealth('pdev')
local health = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
check(health:find('`pdev` is pdev') and health:find('1 client'), 'checkhealth: ' .. health)
vim.cmd.bwipeout()
-- A missing program, as after an installation outside of the PATH.
local cmd = vim.lsp.config.pdev.cmd
vim.lsp.config('pdev', { cmd = { '/nowhere/pdev', 'lsp' } })
vim.cmd.checkhealth('pdev')
health = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
check(health:find('`/nowhere/pdev` does not run', 1, true) and health:find('install.sh', 1, true), 'checkhealth: ' .. health)
vim.cmd.bwipeout()
vim.lsp.config('pdev', { cmd = cmd })

-- Other YAML files get no server and no diagnostics, even with the content of a manifest.
for _, name in ipairs({ 'deployment.yaml', 'compose.yml', 'my-pdev.yaml' }) do
  local file = assert(io.open(name, 'w'))
  file:write('pdev: 1\napp: x\nservices: { web: { prot: 1 } }\n')
  file:close()
  vim.cmd.edit(name)
  check(vim.bo.filetype == 'yaml', name .. ' is plain YAML')
  check(#vim.lsp.get_clients({ name = 'pdev', bufnr = 0 }) == 0, 'no server is attached to ' .. name)
  check(#vim.diagnostic.get(0) == 0, 'no diagnostic in ' .. name)
  vim.cmd('bwipeout!')
end
local docs = vim.fn.fnamemodify(vim.api.nvim_get_runtime_file('doc/pdev.txt', false)[1], ':h')
vim.cmd.helptags(docs)
-- Check only the tag: this Neovim is unpacked, not installed, and lacks the parser for help files.
check(vim.tbl_contains(vim.fn.getcompletion(':Pdev', 'help'), ':Pdev'), ':help :Pdev')
os.remove(docs .. '/tags')
print('\n' .. checks .. ' checks passed\n')
