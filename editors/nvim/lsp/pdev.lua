---@brief
---
--- The language server of `pdev.yaml`: findings with fixes, completion, hover, and the running preview above each
--- service. It is part of the `pdev` binary.

---@type vim.lsp.Config
return {
  cmd = { 'pdev', 'lsp' },
  filetypes = { 'yaml.pdev' },
  root_markers = { { 'pdev.yaml' }, '.git' },
  get_language_id = function()
    return 'pdev'
  end,
  workspace_required = false,
}
