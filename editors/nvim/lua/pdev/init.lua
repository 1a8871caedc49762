--- The preview of the manifest in the current buffer: commands, what they answer, a text for the statusline.
local M = {}

---@class pdev.Unit
---@field name string
---@field state string
---@field url string?
---@field reason string?

---@class pdev.Status
---@field title string
---@field state string
---@field url string?
---@field units pdev.Unit[]

--- What the server knows of each manifest, by URI; asked again when it says that something changed.
---@type table<string, pdev.Status|false>
local known = {}

---@param text string
---@param level integer?
local function tell(text, level)
  vim.notify('pdev: ' .. text, level or vim.log.levels.INFO)
end

---@return vim.lsp.Client?
local function client()
  return vim.lsp.get_clients({ name = 'pdev', bufnr = 0 })[1] or vim.lsp.get_clients({ name = 'pdev' })[1]
end

--- The manifest of this buffer, or the only one that is open.
---@param found vim.lsp.Client
---@return string?
local function manifest(found)
  if vim.fn.fnamemodify(vim.api.nvim_buf_get_name(0), ':t') == 'pdev.yaml' then
    return vim.uri_from_bufnr(0)
  end
  for buffer in pairs(found.attached_buffers) do
    if vim.fn.fnamemodify(vim.api.nvim_buf_get_name(buffer), ':t') == 'pdev.yaml' then
      return vim.uri_from_bufnr(buffer)
    end
  end
end

---@param name string
---@param argument table
---@param answered fun(result: any)?
local function execute(name, argument, answered)
  local found = client()
  if not found then
    return tell('no server runs here; open a pdev.yaml, or see :checkhealth pdev', vim.log.levels.WARN)
  end
  argument.uri = argument.uri or manifest(found)
  found:request('workspace/executeCommand', { command = 'pdev.' .. name, arguments = { argument } }, function(err, result)
    if err then
      tell(err.message, vim.log.levels.ERROR)
    elseif answered then
      answered(result)
    end
  end)
end

--- Text in a window of its own, which goes with its buffer.
---@param name string
---@param lines string[]
---@param filetype string?
local function show(name, lines, filetype)
  local uri = 'pdev://' .. name
  local buffer = vim.fn.bufadd(uri)
  vim.fn.bufload(buffer)
  vim.bo[buffer].buftype = 'nofile'
  vim.bo[buffer].swapfile = false
  vim.bo[buffer].modifiable = true
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  vim.bo[buffer].modifiable = false
  vim.bo[buffer].filetype = filetype or ''
  local window = vim.fn.bufwinid(buffer)
  if window == -1 then
    vim.cmd.split()
    vim.api.nvim_win_set_buf(0, buffer)
    window = vim.api.nvim_get_current_win()
  end
  vim.api.nvim_win_set_cursor(window, { math.max(#lines, 1), 0 })
end

---@param status pdev.Status
---@return string[]
local function table_of(status)
  local lines = { status.title .. '  ' .. status.state .. (status.url and ('  ' .. status.url) or ''), '' }
  for _, unit in ipairs(status.units or {}) do
    lines[#lines + 1] =
      vim.trim(('%-16s %-10s %s %s'):format(unit.name, unit.state, unit.url or '', unit.reason or ''))
  end
  return lines
end

--- A terminal with the same program as the server, in the manifest's folder.
---@param args string[]
local function terminal(args)
  local found = client()
  local uri = found and manifest(found)
  local config = vim.lsp.config.pdev
  local command = config and config.cmd
  local program = type(command) == 'table' and command[1] or 'pdev'
  vim.cmd.new()
  vim.fn.jobstart(vim.list_extend({ program }, args), {
    term = true,
    cwd = uri and vim.fs.dirname(vim.uri_to_fname(uri)) or nil,
  })
end

---@type table<string, fun(unit: string?)>
local commands = {
  shell = function(unit)
    if not unit then
      return tell('name the service: `:Pdev shell api`', vim.log.levels.WARN)
    end
    terminal({ 'exec', unit })
  end,
  tail = function(unit)
    terminal({ 'logs', '--follow', unit })
  end,
  login = function(identity)
    if not identity then
      return tell('name the identity: `:Pdev login shop-dev`; `pdev identity` lists them', vim.log.levels.WARN)
    end
    terminal({ 'login', identity })
  end,
  up = function(unit)
    execute('up', { unit = unit })
  end,
  stop = function(unit)
    execute('stop', { unit = unit })
  end,
  restart = function(unit)
    execute('restart', { unit = unit })
  end,
  apply = function(unit)
    execute('apply', { unit = unit })
  end,
  agent = function()
    execute('agent', {})
  end,
  approve = function(unit)
    execute('approve', { unit = unit })
  end,
  report = function()
    execute('report', {}, function(text)
      show('report', vim.split(text, '\n', { trimempty = true }))
    end)
  end,
  open = function(unit)
    execute('open', { unit = unit })
  end,
  logs = function(unit)
    execute('logs', { unit = unit }, function(entries)
      local lines = vim.tbl_map(function(entry)
        return entry.unit .. ' | ' .. entry.text
      end, entries)
      show('logs/' .. (unit or 'all'), lines)
    end)
  end,
  status = function()
    execute('status', {}, function(status)
      show('status', table_of(status))
    end)
  end,
  render = function(unit)
    execute('render', { unit = unit }, function(text)
      show('render/' .. (unit or 'all'), vim.split(text, '\n', { trimempty = true }))
    end)
  end,
  plan = function()
    execute('diff', {}, function(plan)
      local lines = vim.tbl_map(function(step)
        return ('%s  # %s'):format(step.text, step.because)
      end, plan.steps)
      show('plan', plan.unchanged and { 'nothing would change' } or lines)
    end)
  end,
  check = function()
    execute('check', {}, function()
      vim.diagnostic.setqflist({ namespace = nil, title = 'pdev check' })
    end)
  end,
  log = function()
    vim.cmd.edit(vim.lsp.log.get_filename())
  end,
  info = function()
    vim.cmd.checkhealth('pdev')
  end,
}

--- The server asks a person. An answer with `typed` is given only by somebody who types that; one with `copy` goes into
--- the clipboard.
---@param err table?
---@param params { message: string, actions: { title: string, typed: string?, copy: string? }[]? }
---@param ctx table
function M.question(err, params, ctx)
  local guarded = vim.iter(params.actions or {}):find(function(action)
    return action.typed ~= nil
  end)
  if not guarded then
    local chosen = vim.lsp.handlers['window/showMessageRequest'](err, params, ctx)
    if type(chosen) == 'table' and chosen.copy then
      vim.fn.setreg(vim.fn.has('clipboard') == 1 and '+' or '"', chosen.copy)
    end
    return chosen
  end
  local asking = coroutine.running()
  local prompt = ('%s\nType %s to approve: '):format(params.message, guarded.typed)
  vim.ui.input({ prompt = prompt }, function(typed)
    -- Later, because a prompt may answer before anybody waits for it.
    vim.schedule(function()
      coroutine.resume(asking, typed and vim.trim(typed) == guarded.typed and guarded or vim.NIL)
    end)
  end)
  return coroutine.yield()
end

--- A lens was chosen.
---@param argument { unit: string? }
function M.shell(argument)
  commands.shell(argument.unit)
end

--- A lens was chosen.
---@param argument { unit: string? }
function M.tail(argument)
  commands.tail(argument.unit)
end

--- A finding's fix was chosen. In a terminal: some identities want a secret typed.
---@param argument { identity: string? }
function M.login(argument)
  commands.login(argument.identity)
end

---@param opts { fargs: string[] }
function M.command(opts)
  local name = opts.fargs[1] or 'status'
  local run = commands[name]
  if not run then
    return tell(('no command `%s`; there are %s'):format(name, table.concat(M.names(), ', ')), vim.log.levels.ERROR)
  end
  run(opts.fargs[2])
end

---@return string[]
function M.names()
  local names = vim.tbl_keys(commands)
  table.sort(names)
  return names
end

--- Commands first, then the units of the manifest's preview.
---@param lead string
---@param line string
---@return string[]
function M.complete(lead, line)
  local words = vim.split(vim.trim(line), '%s+')
  local second = #words > 2 or (#words == 2 and lead == '')
  local choices = M.names()
  if second then
    local found = client()
    local status = found and known[manifest(found) or '']
    choices = status and vim.tbl_map(function(unit)
      return unit.name
    end, status.units or {}) or {}
  end
  return vim.tbl_filter(function(choice)
    return vim.startswith(choice, lead)
  end, choices)
end

--- For a statusline: `shop/main ready`, or an empty text. Never waits: it shows what was known a moment ago.
---@return string
function M.status()
  local found = client()
  local uri = found and manifest(found)
  local status = uri and known[uri]
  return status and (status.title .. ' ' .. status.state) or ''
end

--- Asks what is known of the manifest; called when the server says that lenses are old.
function M.refresh()
  local found = client()
  local uri = found and manifest(found)
  if not found or not uri then
    return
  end
  found:request('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = uri } } }, function(err, result)
    known[uri] = not err and result or false
    vim.cmd.redrawstatus()
  end)
end

return M
