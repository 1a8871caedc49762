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
  check(answer and not answer.err, method .. ': ' .. vim.inspect(answer and answer.err))
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
vim.cmd('Pdev stop')
soon('and it is down again', function()
  return require('pdev').status() == '' or require('pdev').status() == 'nvim/main down'
end)

vim.cmd.checkhealth('pdev')
local health = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), '\n')
check(health:find('`pdev` is pdev') and health:find('1 client'), 'checkhealth: ' .. health)
local docs = vim.fn.fnamemodify(vim.api.nvim_get_runtime_file('doc/pdev.txt', false)[1], ':h')
vim.cmd.helptags(docs)
-- Not shown: this Neovim is unpacked, not installed, and lacks the parser that colours its help.
check(vim.tbl_contains(vim.fn.getcompletion(':Pdev', 'help'), ':Pdev'), ':help :Pdev')
os.remove(docs .. '/tags')
print('\n' .. checks .. ' checks passed\n')
