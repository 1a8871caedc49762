vim.filetype.add({
  filename = { ['pdev.yaml'] = 'yaml.pdev' },
})
