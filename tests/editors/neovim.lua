-- Runs inside Neovim: opens a manifest with mistakes and does what a person would. Fails with the first thing that is
-- not as it should be; waits for conditions, never for time.
local checks = 0
local function check(condition, what)
  if not condition then
    error('not so: ' .. what, 2)
  end
  checks = checks + 1
end
local function soon(what, condition)
  check(vim.wait(15000, condition, 10), what)
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
check(vim.bo.shiftwidth == 2 and vim.bo.expandtab, 'two spaces of indent')

soon('the server attaches', function()
  local client = vim.lsp.get_clients({ name = 'pdev', bufnr = buffer })[1]
  return client and client.initialized
end)
local client = vim.lsp.get_clients({ name = 'pdev' })[1]

local function codes()
  return vim.tbl_map(function(found)
    return found.code
  end, vim.diagnostic.get(buffer))
end
soon('the misspelt key is told', function()
  return vim.tbl_contains(codes(), 'PD0110')
end)
local misspelt = vim.tbl_filter(function(found)
  return found.code == 'PD0110'
end, vim.diagnostic.get(buffer))[1]
check(misspelt.lnum == 4 and misspelt.col == 4 and misspelt.end_col == 8, 'on the key itself')
check(misspelt.source == 'pdev', 'with its source')
check(misspelt.message:find('port'), 'with the word that was meant')

vim.api.nvim_win_set_cursor(0, { 5, 5 })
vim.lsp.buf.code_action({
  context = { only = { 'quickfix' }, diagnostics = { misspelt.user_data.lsp } },
  filter = function(action)
    return action.isPreferred
  end,
  apply = true,
})
soon('the fix is applied', function()
  return vim.api.nvim_buf_get_lines(buffer, 4, 5, false)[1] == '    port: 8080'
end)
soon('and the finding goes', function()
  return not vim.tbl_contains(codes(), 'PD0110')
end)

local function ask(method, params)
  local answer = client:request_sync(method, params, 10000, buffer)
  if not answer or answer.err then
    error(method .. ': ' .. vim.inspect(answer and answer.err), 2)
  end
  return answer.result
end
local function at(line, character)
  return { textDocument = { uri = vim.uri_from_bufnr(0) }, position = { line = line, character = character } }
end

vim.api.nvim_buf_set_lines(buffer, 6, 6, false, { '    re' })
local answer = ask('textDocument/completion', at(6, 6))
local labels = vim.tbl_map(function(item)
  return item.label
end, answer.items or answer)
check(vim.tbl_contains(labels, 'restart'), 'completion knows `restart`: ' .. table.concat(labels, ' '))
vim.api.nvim_buf_set_lines(buffer, 6, 7, false, {})

local hover = ask('textDocument/hover', at(4, 5))
check(vim.inspect(hover):lower():find('port'), 'hover tells about the port')

vim.api.nvim_win_set_cursor(0, { 4, 3 })
vim.lsp.buf.rename('shop')
soon('rename reaches every mention', function()
  local text = table.concat(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), '\n')
  return text:find('\n  shop:') and text:find('needs: %[shop%]')
end)

vim.cmd.write()
vim.cmd('Pdev up')
soon('the preview is up', function()
  local result = client:request_sync('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } }, 5000)
  return result and result.result and result.result.state == 'ready'
end)
soon('the statusline tells, unasked', function()
  return require('pdev').status() == 'nvim/main ready'
end)
vim.lsp.inlay_hint.enable(true)
soon('state stands behind each unit', function()
  local labels = vim.tbl_map(function(hint)
    return hint.inlay_hint.label
  end, vim.lsp.inlay_hint.get({ bufnr = buffer }))
  return vim.tbl_contains(labels, 'ready')
end)
vim.cmd('Pdev status')
soon('the units are shown in a window', function()
  local text = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
  return text:find('nvim/main  ready') and text:find('shop')
end)
vim.cmd.close()
local lenses = ask('textDocument/codeLens', { textDocument = { uri = vim.uri_from_bufnr(buffer) } })
local titles = vim.tbl_map(function(lens)
  return lens.command.title
end, lenses)
check(#titles > 2, 'lenses stand above the services: ' .. table.concat(titles, ', '))
local function lens(title)
  return vim.iter(lenses):find(function(one)
    return one.command.title == title
  end)
end
check(lens('shell'), 'a lens offers a shell: ' .. table.concat(titles, ', '))
check(vim.tbl_contains(require('pdev').complete('re', 'Pdev re'), 'restart'), ':Pdev completes')
client:exec_cmd(lens('shell').command, { bufnr = buffer })
local shell = vim.api.nvim_get_current_buf()
vim.api.nvim_chan_send(vim.bo.channel, 'echo "in $((40 + 2))"\r')
soon('a shell answers in a terminal', function()
  return table.concat(vim.api.nvim_buf_get_lines(shell, 0, -1, false), '\n'):find('in 42')
end)
vim.cmd('bwipeout!')
local function window(command, name, words)
  vim.cmd('Pdev ' .. command)
  local text
  local opened = vim.wait(15000, function()
    text = vim.api.nvim_buf_get_name(0) .. '\n' .. table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
    return text:find(name, 1, true) and text:find(words, 1, true) ~= nil
  end, 10)
  check(opened, ':Pdev ' .. command .. ' shows ' .. words .. ', found ' .. text)
  vim.cmd.close()
end
window('render api', 'pdev://render/api', 'services.api.health')
window('plan', 'pdev://plan', 'nothing would change')
window('report', 'pdev://report', 'pdev ')

-- One service is stopped by its lens; the other one stays, and what was stopped is no drift.
local function lens_of(unit_name, words)
  local all = ask('textDocument/codeLens', { textDocument = { uri = vim.uri_from_bufnr(buffer) } })
  return vim.iter(all):find(function(one)
    return one.command.title:find(words, 1, true) and (one.command.arguments[1] or {}).unit == unit_name
  end)
end
local function state(name)
  local result = ask('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } })
  return vim.iter(result.units):find(function(one)
    return one.name == name
  end).state
end
soon('a lens stops one service', function()
  return lens_of('api', 'stop')
end)
client:exec_cmd(lens_of('api', 'stop').command, { bufnr = buffer })
soon('it alone is stopped', function()
  return state('api') == 'stopped' and state('shop') == 'ready'
end)
check(not vim.tbl_contains(codes(), 'drift'), 'what was stopped is no drift')
soon('a lens starts it', function()
  return lens_of('api', 'start') and not lens_of('api', 'stop')
end)
local select = vim.ui.select
if vim.fn.has('nvim-0.12') == 1 then
  -- By the keys' own way: the lens under the cursor.
  vim.lsp.codelens.enable(true, { bufnr = buffer })
  soon('Neovim holds the lenses itself', function()
    return vim.iter(vim.lsp.codelens.get({ bufnr = buffer })):find(function(one)
      return one.lens.command and one.lens.command.title == '▶ start'
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
soon('and it runs again', function()
  return state('api') == 'ready'
end)
vim.ui.select = select
check(vim.tbl_contains(require('pdev').complete('', 'Pdev stop '), 'api'), ':Pdev stop completes services')
vim.cmd('Pdev stop api')
soon(':Pdev stops it, too', function()
  return state('api') == 'stopped' and state('shop') == 'ready'
end)
vim.cmd('Pdev up api')
soon(':Pdev starts it', function()
  return state('api') == 'ready'
end)
vim.cmd('Pdev restart shop')
soon(':Pdev restarts the other', function()
  return state('shop') == 'ready'
end)

-- A literal goes into the vault. The service says how long it is, so that nobody has to print it.
local value = 'sk_test_' .. 'not_anywhere_else'
local function line_of(words)
  for number, text in ipairs(vim.api.nvim_buf_get_lines(buffer, 0, -1, false)) do
    if text:find(words, 1, true) then
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
soon('the manifest names the secret', function()
  return line_of('STRIPE_KEY_FILE: "${secrets.stripe-key.path}"')
end)
check(not line_of(value), 'and has its value no more')
vim.cmd.write()
local kept = vim.system({ 'pdev', 'secret', 'list' }, { text = true }):wait()
check(kept.code == 0 and kept.stdout:find('stripe'), 'the vault has it: ' .. kept.stdout .. kept.stderr)
local work = vim.fs.dirname(vim.fn.getcwd())
local spilt = vim.system({ 'grep', '-rlF', value, work }, { text = true }):wait()
check(spilt.stdout == '', 'the value is nowhere else: ' .. spilt.stdout)
vim.cmd('Pdev up')
local function logs(words)
  return function()
    local result = ask('workspace/executeCommand', { command = 'pdev.logs', arguments = { { uri = vim.uri_from_bufnr(buffer), unit = 'api' } } })
    return vim.inspect(result):find(words, 1, true)
  end
end
soon('the service has the value', logs('the key has ' .. #value))

-- A service asks for an identity in a terminal beside the editor; the person says yes in the editor.
local function terminal(command)
  return vim.system({ 'python3', vim.env.PDEV_TERMINAL, command }, { text = true }):wait(60000).stdout
end
local function waits()
  return vim.iter(vim.diagnostic.get(buffer)):find(function(found)
    return found.code == 'needs_approval'
  end)
end
local function unit(name)
  local result = ask('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } })
  return vim.iter(result.units):find(function(one)
    return one.name == name
  end)
end
api = line_of('  api:')
vim.api.nvim_buf_set_lines(buffer, api, api, false, { '    identity: shop-dev' })
vim.cmd.write()
local told = terminal('pdev up')
check(told:find('pdev identity approve'), '`up` names the command: ' .. told)
soon('who runs without an identity is told on its line', waits)
check(waits().lnum == api, 'on the line of the identity')
local typed, asked
vim.ui.input = function(opts, done)
  asked = opts.prompt
  done(typed)
end
local choice, offered
vim.ui.select = function(items, opts, done)
  offered = opts.prompt
  done(vim.iter(items):find(function(item)
    return item.title == choice
  end))
end
local function approvals()
  return vim.system({ 'pdev', 'identity', 'approvals', '--json' }, { text = true }):wait().stdout
end
local function approve()
  asked = nil
  vim.api.nvim_win_set_cursor(0, { api + 1, 16 })
  vim.lsp.buf.code_action({
    context = { only = { 'quickfix' }, diagnostics = { waits().user_data.lsp } },
    filter = function(action)
      return action.title:find('^Approve') ~= nil
    end,
    apply = true,
  })
end
typed = 'yes'
approve()
soon('the person is asked', function()
  return asked
end)
check(asked:find('`api` of .* would act as `shop%-dev`'), 'about what it is: ' .. asked)
check(vim.trim(approvals()) == '[]', 'another word approves nothing')
typed, choice = 'shop-dev', 'Bring it up again'
approve()
soon('the name approves, and the service is given its identity', function()
  return unit('api').identity == 'shop-dev'
end)
soon('the finding goes', function()
  return not waits()
end)

-- What was asked for through the editor, the editor cannot approve: a program may have pressed the key.
check(vim.system({ 'pdev', 'identity', 'revoke', 'shop-dev' }):wait().code == 0, 'it can be taken back')
vim.cmd('Pdev up')
soon('it runs without it again', waits)
asked, offered, choice = nil, nil, 'Copy the command'
vim.cmd('Pdev approve api')
soon('the command for another terminal is shown', function()
  return offered and offered:find('the request came through this editor', 1, true)
end)
check(not asked, 'and nobody is asked in vain')
local command = offered:match('pdev identity approve [%w-]+')
soon('and can be copied', function()
  return command and (vim.fn.getreg('"') == command or vim.fn.getreg('+') == command)
end)

-- What is written is no longer what runs, and the fix brings it there.
local function told(code)
  return vim.iter(vim.diagnostic.get(buffer)):find(function(found)
    return found.code == code
  end)
end
local web = line_of('1000')
vim.api.nvim_buf_set_lines(buffer, web - 1, web - 1, false, { '    env: { LEVEL: debug }' })
vim.cmd.write()
soon('drift is told', function()
  return told('drift')
end)
local function fix(code, words)
  local found = assert(told(code), code)
  vim.api.nvim_win_set_cursor(0, { found.lnum + 1, found.col + 1 })
  vim.lsp.buf.code_action({
    context = { only = { 'quickfix' }, diagnostics = { found.user_data.lsp } },
    filter = function(action)
      return action.title:find(words) ~= nil
    end,
    apply = true,
  })
end
fix('drift', '^Apply')
soon('what is written is applied', function()
  return not told('drift') and unit('shop').state == 'ready'
end)

-- A service that crashes says so on its line, with its last words.
local services = line_of('  api:')
vim.api.nvim_buf_set_lines(buffer, services - 1, services - 1, false, {
  '  bad:',
  '    health: none',
  '    restart: never',
  [[    process: { command: [sh, -c, 'echo "cannot reach the moon"; exit 3'] }]],
})
vim.cmd.write()
vim.cmd('Pdev up')
soon('the crash is told with its last words', function()
  local found = vim.iter(vim.diagnostic.get(buffer)):find(function(one)
    return one.source == 'pdev (live)' and one.message:find('cannot reach the moon', 1, true)
  end)
  return found and found.lnum >= services - 1 and found.lnum <= services + 3
end)
local peek = ask('textDocument/hover', at(line_of('  shop:') - 1, 3))
check(vim.inspect(peek):find('ready after %d+ ms'), 'a hover says how long it took: ' .. vim.inspect(peek))

-- The commands that show something.
vim.cmd('Pdev check')
soon(':Pdev check fills the quickfix list', function()
  return vim.fn.getqflist({ title = 0 }).title == 'pdev check'
end)
vim.cmd.cclose()
vim.cmd.buffer(buffer)
vim.cmd('Pdev tail api')
local tail = vim.api.nvim_get_current_buf()
soon(':Pdev tail follows in a terminal', function()
  return vim.bo[tail].buftype == 'terminal'
    and table.concat(vim.api.nvim_buf_get_lines(tail, 0, -1, false), '\n'):find('the key has ' .. #value, 1, true)
end)
vim.cmd('bwipeout!')
vim.cmd.buffer(buffer)
window('logs api', 'pdev://logs/api', 'the key has ' .. #value)
local shown = {}
vim.notify = function(text, level)
  shown[#shown + 1] = { text = text, level = level }
end
local function notified(words)
  return function()
    return vim.iter(shown):find(function(one)
      return one.text:find(words, 1, true)
    end)
  end
end
local opened
vim.ui.open = function(url)
  opened = url
  return nil, nil
end
vim.cmd('Pdev open shop')
soon(':Pdev open opens the URL of the service', function()
  return opened and opened:find('^http://shop%.')
end)
vim.cmd('Pdev open api')
soon('or says that there is none', notified('`api` has no URL'))
vim.cmd('Pdev nonsense')
soon('an unknown command names those there are', notified('no command `nonsense`'))
vim.cmd('Pdev shell')
soon('a shell needs a service', notified('name the service'))
vim.cmd('Pdev stop moon')
soon('a service that is not there is told by the agent', function()
  return client:request_sync('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = vim.uri_from_bufnr(buffer) } } }, 5000)
    and notified('there is no unit `moon`')()
end)

vim.cmd('Pdev stop')
soon('and it is down again', function()
  return require('pdev').status() == '' or require('pdev').status() == 'nvim/main down'
end)

vim.cmd.checkhealth('pdev')
local health = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
check(health:find('`pdev` is pdev') and health:find('1 client'), 'checkhealth: ' .. health)
vim.cmd.bwipeout()
-- A program that is not there, as after an installation that is not on the PATH.
local cmd = vim.lsp.config.pdev.cmd
vim.lsp.config('pdev', { cmd = { '/nowhere/pdev', 'lsp' } })
vim.cmd.checkhealth('pdev')
health = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
check(health:find('`/nowhere/pdev` does not run', 1, true) and health:find('install.sh', 1, true), 'checkhealth: ' .. health)
vim.cmd.bwipeout()
vim.lsp.config('pdev', { cmd = cmd })

-- Somebody else's YAML gets no server, and the same words in it no findings.
for _, name in ipairs({ 'deployment.yaml', 'compose.yml', 'my-pdev.yaml' }) do
  local file = assert(io.open(name, 'w'))
  file:write('pdev: 1\napp: x\nservices: { web: { prot: 1 } }\n')
  file:close()
  vim.cmd.edit(name)
  check(vim.bo.filetype == 'yaml', name .. ' is plain YAML')
  check(#vim.lsp.get_clients({ name = 'pdev', bufnr = 0 }) == 0, 'no server is attached to ' .. name)
  check(#vim.diagnostic.get(0) == 0, 'nothing is found in ' .. name)
  vim.cmd('bwipeout!')
end
local docs = vim.fn.fnamemodify(vim.api.nvim_get_runtime_file('doc/pdev.txt', false)[1], ':h')
vim.cmd.helptags(docs)
-- Not shown: this Neovim is unpacked, not installed, and lacks the parser that colours its help.
check(vim.tbl_contains(vim.fn.getcompletion(':Pdev', 'help'), ':Pdev'), ':help :Pdev')
os.remove(docs .. '/tags')
print('\n' .. checks .. ' checks passed\n')
