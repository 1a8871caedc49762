---@brief
---
--- The language server of `pdev.yaml`: diagnostics with fixes, completion, hover, and the live state of each service. It
--- is part of the `pdev` binary.

--- Updates the statusline when the server requests a refresh of lenses or hints, because the live state has changed.
---@param method string
local function with_refresh(method)
  return function(err, result, ctx)
    require('pdev').refresh()
    local default_handler = vim.lsp.handlers[method]
    -- The server waits for a response, and `nil` sends none.
    return default_handler and default_handler(err, result, ctx) or vim.NIL
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
  -- The server sends these commands only to clients that list them here.
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
    ['workspace/codeLens/refresh'] = with_refresh('workspace/codeLens/refresh'),
    ['workspace/inlayHint/refresh'] = with_refresh('workspace/inlayHint/refresh'),
    ['window/showMessageRequest'] = function(err, params, ctx)
      return require('pdev').question(err, params, ctx)
    end,
  },
  on_attach = function()
    require('pdev').refresh()
  end,
}
