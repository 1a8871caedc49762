if vim.g.loaded_pdev then
  return
end
vim.g.loaded_pdev = true

if vim.fn.has('nvim-0.11') == 0 then
  vim.notify('pdev: needs Neovim 0.11 or newer', vim.log.levels.WARN)
  return
end

-- Keep YAML's highlighting and plugins for manifests, whose file type is `yaml.pdev`.
vim.treesitter.language.register('yaml', 'yaml.pdev')

if not vim.g.pdev_no_enable then
  vim.lsp.enable('pdev')
end

vim.api.nvim_create_user_command('Pdev', function(opts)
  require('pdev').command(opts)
end, {
  nargs = '*',
  bang = true,
  complete = function(lead, line)
    return require('pdev').complete(lead, line)
  end,
  desc = 'pdev: control the preview of this manifest',
})

for _, name in ipairs({ 'up', 'stop', 'restart', 'logs', 'open', 'status' }) do
  vim.keymap.set('n', '<Plug>(pdev-' .. name .. ')', '<Cmd>Pdev ' .. name .. '<CR>')
end
