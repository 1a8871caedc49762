//! Who you are: sources of credentials, the vault they rest in, the outlets tools receive them by.
//!
//! The only room that can hold a secret. Nothing of it exists yet: until the vault does, `cli` reads `--secret` and
//! `PDEV_SECRET_NAME`, and the drivers deliver them as files.
