---@brief
---
--- The language server of `pdev.yaml`: findings with fixes, completion, hover, and the running preview above each
--- service. It is part of the `pdev` binary.

--- The server says that lenses and hints are old when something changed: so is what the statusline shows.
---@param method string
local function refreshed(method)
  return function(err, result, ctx)
    require('pdev').refresh()
    local stock = vim.lsp.handlers[method]
    return stock and stock(err, result, ctx) or vim.NIL
  end
end

---@type vim.lsp.Config
return {
  cmd = { 'pdev', 'lsp' },
  filetypes = { 'yaml.pdev' },
  root_markers = { { 'pdev.yaml' }, '.git' },
  get_language_id = function()
    return 'pdev'
  end,
  workspace_required = false,
  -- Terminals, registers and prompts are the editor's: the server uses them where a client says it can.
  capabilities = { experimental = { commands = { 'pdev.shell', 'pdev.tail', 'pdev.approve', 'pdev.copy' } } },
  commands = {
    ['pdev.shell'] = function(command)
      require('pdev').shell((command.arguments or {})[1] or {})
    end,
    ['pdev.tail'] = function(command)
      require('pdev').tail((command.arguments or {})[1] or {})
    end,
    ['pdev.login'] = function(command)
      require('pdev').login((command.arguments or {})[1] or {})
    end,
  },
  handlers = {
    ['workspace/codeLens/refresh'] = refreshed('workspace/codeLens/refresh'),
    ['workspace/inlayHint/refresh'] = refreshed('workspace/inlayHint/refresh'),
    ['window/showMessageRequest'] = function(err, params, ctx)
      return require('pdev').question(err, params, ctx)
    end,
  },
  on_attach = function()
    require('pdev').refresh()
  end,
}
