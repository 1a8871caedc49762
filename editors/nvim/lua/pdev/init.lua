--- The preview of the manifest in the current buffer: commands, windows with their results, a text for the statusline.
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

--- The last status of each manifest, by URI. Updated when the server reports a change.
---@type table<string, pdev.Status|false>
local statuses = {}

---@param text string
---@param level integer?
local function notify(text, level)
  vim.notify('pdev: ' .. text, level or vim.log.levels.INFO)
end

---@return vim.lsp.Client?
local function find_client()
  return vim.lsp.get_clients({ name = 'pdev', bufnr = 0 })[1] or vim.lsp.get_clients({ name = 'pdev' })[1]
end

--- The URI of the manifest in this buffer, else of an open manifest.
---@param client vim.lsp.Client
---@return string?
local function find_manifest(client)
  if vim.fn.fnamemodify(vim.api.nvim_buf_get_name(0), ':t') == 'pdev.yaml' then
    return vim.uri_from_bufnr(0)
  end
  for buffer in pairs(client.attached_buffers) do
    if vim.fn.fnamemodify(vim.api.nvim_buf_get_name(buffer), ':t') == 'pdev.yaml' then
      return vim.uri_from_bufnr(buffer)
    end
  end
end

---@param name string
---@param argument table
---@param on_result fun(result: any)?
local function execute(name, argument, on_result)
  local client = find_client()
  if not client then
    return notify('no language server runs; open a pdev.yaml, or run :checkhealth pdev', vim.log.levels.WARN)
  end
  argument.uri = argument.uri or find_manifest(client)
  client:request('workspace/executeCommand', { command = 'pdev.' .. name, arguments = { argument } }, function(err, result)
    if err then
      notify(err.message, vim.log.levels.ERROR)
    elseif on_result then
      on_result(result)
    end
  end)
end

--- Shows text in a scratch buffer in its own window, with the cursor at the end.
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
local function status_lines(status)
  local lines = { status.title .. '  ' .. status.state .. (status.url and ('  ' .. status.url) or ''), '' }
  for _, unit in ipairs(status.units or {}) do
    lines[#lines + 1] =
      vim.trim(('%-16s %-10s %s %s'):format(unit.name, unit.state, unit.url or '', unit.reason or ''))
  end
  return lines
end

--- Runs the server's program in a terminal, in the folder of the manifest.
---@param args string[]
local function open_terminal(args)
  local client = find_client()
  local uri = client and find_manifest(client)
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
      return notify('name the service: `:Pdev shell api`', vim.log.levels.WARN)
    end
    open_terminal({ 'exec', unit })
  end,
  tail = function(unit)
    open_terminal({ 'logs', '--follow', unit })
  end,
  login = function(identity)
    if not identity then
      return notify('name the identity: `:Pdev login shop-dev`; `pdev identity` lists them', vim.log.levels.WARN)
    end
    open_terminal({ 'login', identity })
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
      show('status', status_lines(status))
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

--- Shows a question of the server. An action with `typed` is chosen only if the user types that text. The `copy` text of
--- a chosen action is put into the clipboard.
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
  -- Neovim runs this handler in a coroutine and sends its return value as the response.
  local handler = coroutine.running()
  local prompt = ('%s\nType %s to approve: '):format(params.message, guarded.typed)
  vim.ui.input({ prompt = prompt }, function(typed)
    -- Resume later, because `vim.ui.input` may call back before the handler yields.
    vim.schedule(function()
      coroutine.resume(handler, typed and vim.trim(typed) == guarded.typed and guarded or vim.NIL)
    end)
  end)
  return coroutine.yield()
end

--- Handles a chosen lens.
---@param argument { unit: string? }
function M.shell(argument)
  commands.shell(argument.unit)
end

--- Handles a chosen lens.
---@param argument { unit: string? }
function M.tail(argument)
  commands.tail(argument.unit)
end

--- Handles a chosen fix. Uses a terminal, because for some identities the user types a secret.
---@param argument { identity: string? }
function M.login(argument)
  commands.login(argument.identity)
end

---@param opts { fargs: string[] }
function M.command(opts)
  local name = opts.fargs[1] or 'status'
  local run = commands[name]
  if not run then
    return notify(('no command `%s`; available commands: %s'):format(name, table.concat(M.names(), ', ')), vim.log.levels.ERROR)
  end
  run(opts.fargs[2])
end

---@return string[]
function M.names()
  local names = vim.tbl_keys(commands)
  table.sort(names)
  return names
end

--- Completes the command, then the units of the preview.
---@param lead string
---@param line string
---@return string[]
function M.complete(lead, line)
  local words = vim.split(vim.trim(line), '%s+')
  local second = #words > 2 or (#words == 2 and lead == '')
  local choices = M.names()
  if second then
    local client = find_client()
    local status = client and statuses[find_manifest(client) or '']
    choices = status and vim.tbl_map(function(unit)
      return unit.name
    end, status.units or {}) or {}
  end
  return vim.tbl_filter(function(choice)
    return vim.startswith(choice, lead)
  end, choices)
end

--- For a statusline: `shop/main ready`, or an empty text. Returns the last reported status, because a statusline must
--- not wait for a request.
---@return string
function M.status()
  local client = find_client()
  local uri = client and find_manifest(client)
  local status = uri and statuses[uri]
  return status and (status.title .. ' ' .. status.state) or ''
end

--- Requests the status of the manifest. Called when the server asks for a refresh of lenses or hints.
function M.refresh()
  local client = find_client()
  local uri = client and find_manifest(client)
  if not client or not uri then
    return
  end
  client:request('workspace/executeCommand', { command = 'pdev.status', arguments = { { uri = uri } } }, function(err, result)
    statuses[uri] = not err and result or false
    vim.cmd.redrawstatus()
  end)
end

return M
