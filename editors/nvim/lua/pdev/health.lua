--- `:checkhealth pdev`
local M = {}

---@param command string[]
---@return boolean, string
local function run(command)
  local ok, handle = pcall(vim.system, command, { text = true, timeout = 5000 })
  if not ok then
    return false, tostring(handle)
  end
  local result = handle:wait()
  return result.code == 0, vim.trim((result.stdout or '') .. (result.stderr or ''))
end

function M.check()
  local health = vim.health
  health.start('pdev')
  if vim.fn.has('nvim-0.11') == 0 then
    health.error('pdev needs Neovim 0.11 or newer')
  else
    health.ok('Neovim ' .. tostring(vim.version()))
  end

  local config = vim.lsp.config.pdev
  local command = config and config.cmd or { 'pdev', 'lsp' }
  local program = type(command) == 'table' and command[1] or 'pdev'
  local works, version = run({ program, '--version' })
  if works then
    health.ok(('`%s` is %s (%s)'):format(program, version, vim.fn.exepath(program)))
  else
    health.error(('`%s` does not run: %s'):format(program, version), {
      'Install pdev with install.sh, and add ~/.local/bin to $PATH.',
      "Or set its path: vim.lsp.config('pdev', { cmd = { '/path/to/pdev', 'lsp' } })",
    })
    return
  end

  local agent_runs, output = run({ program, 'agent', 'status' })
  if agent_runs then
    health.ok('agent: ' .. output:gsub('\n.*', ''))
  else
    health.info('no agent runs; `:Pdev up` starts it. Diagnostics and completion work without it.')
  end

  local clients = vim.lsp.get_clients({ name = 'pdev' })
  health.info(('%d client(s) attached'):format(#clients))
  for _, client in ipairs(clients) do
    health.info(('root %s, encoding %s'):format(client.root_dir or 'none', client.offset_encoding))
  end
  if #vim.lsp.get_clients({ name = 'yamlls' }) > 0 then
    health.warn('yamlls also analyses pdev.yaml, so each mistake may appear twice', {
      "Exclude pdev.yaml: vim.lsp.config('yamlls', { filetypes = { 'yaml' } })",
    })
  end
end

return M
