//! The vault with a real file system, the real kernel keyring, and (below `tests/`) a real desktop keyring.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn passphrase_options(folder: &Path, passphrase: &str) -> VaultOptions {
    let path = folder.join("passphrase");
    fs::write(&path, passphrase).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    VaultOptions { key_store: Some(KeyStore::Passphrase), passphrase_file: Some(path), ..VaultOptions::default() }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

#[tokio::test]
async fn values_are_stored_sealed_and_read_back() {
    let root = tempfile::tempdir().unwrap();
    let (folder, options) = (root.path().join("vault"), passphrase_options(root.path(), "correct horse battery"));
    assert!(!Vault::exists(&folder));
    let vault = Vault::open(&folder, &options).await.unwrap();
    vault.put("secret/a", &secret("canary-1")).unwrap();
    vault.put("secret/a", &secret("canary-2")).unwrap();
    vault.put("login/b", &secret("canary-3")).unwrap();
    drop(vault);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"canary"), "{}", path.display());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    // The path of the passphrase file is stored, so that another process needs no variable.
    let vault = Vault::open(&folder, &VaultOptions::default()).await.unwrap();
    assert_eq!(vault.get("secret/a").unwrap().unwrap().expose(), b"canary-2");
    assert!(vault.get("secret/none").unwrap().is_none());
    assert_eq!(names(&folder, "secret/").unwrap(), ["secret/a"]);
    assert!(vault.remove("secret/a").unwrap() && !vault.remove("secret/a").unwrap());
    for name in ["", "../x", "/x", ".x", "a b", "ü"] {
        assert!(matches!(vault.put(name, &secret("x")), Err(VaultProblem::InvalidName(_))), "{name}");
    }
}

#[tokio::test]
async fn each_kind_of_damage_has_its_own_code() {
    let root = tempfile::tempdir().unwrap();
    let (folder, options) = (root.path().join("vault"), passphrase_options(root.path(), "correct horse battery"));
    let vault = Vault::open(&folder, &options).await.unwrap();
    vault.put("a", &secret("one")).unwrap();
    vault.put("b", &secret("two")).unwrap();
    let code = |name: &str| vault.get(name).err().map(|problem| problem.code());
    let path = |name: &str| folder.join(format!("{name}.sealed"));
    fs::copy(path("b"), path("a")).unwrap();
    assert_eq!(code("a"), Some("vault_damaged"), "a file under another name");
    let complete = fs::read(path("b")).unwrap();
    fs::write(path("b"), &complete[..complete.len() - 1]).unwrap();
    assert_eq!(code("b"), Some("vault_damaged"));
    let mut newer = complete;
    newer[8] = 9;
    fs::write(path("b"), newer).unwrap();
    assert_eq!(code("b"), Some("vault_newer"));
    drop(vault);

    let open_code =
        async |options: &VaultOptions| Vault::open(&folder, options).await.err().map(|problem| problem.code());
    let other_passphrase = passphrase_options(root.path(), "another passphrase");
    assert_eq!(open_code(&other_passphrase).await, Some("vault_key_other"));
    passphrase_options(root.path(), "short");
    assert_eq!(open_code(&options).await, Some("vault_passphrase"));
    passphrase_options(root.path(), "correct horse battery");
    fs::set_permissions(root.path().join("passphrase"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(open_code(&options).await, Some("vault_passphrase"));
    let header = fs::read_to_string(folder.join("vault.json")).unwrap();
    fs::write(folder.join("vault.json"), header.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert_eq!(open_code(&options).await, Some("vault_newer"));
    fs::write(folder.join("vault.json"), "{").unwrap();
    assert_eq!(open_code(&options).await, Some("vault_damaged"));
    let aside = set_aside(&folder, "1").unwrap().unwrap();
    assert!(aside.join("a.sealed").is_file() && !folder.exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn kernel_key_opens_vault_until_it_is_invalidated() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("vault");
    let options = VaultOptions { key_store: Some(KeyStore::Kernel), ..VaultOptions::default() };
    let vault = match Vault::open(&folder, &options).await {
        Ok(vault) => vault,
        Err(problem @ (VaultProblem::Denied { .. } | VaultProblem::KeyStoreUnavailable(_))) => {
            println!("skipped: the kernel's keyring: {problem}");
            return;
        }
        Err(other) => panic!("{other}"),
    };
    vault.put("a", &secret("one")).unwrap();
    let description = format!("pdev:vault:{}", vault.header.id);
    drop(vault);
    let vault = Vault::open(&folder, &VaultOptions::default()).await.unwrap();
    assert_eq!(vault.get("a").unwrap().unwrap().expose(), b"one");
    let ring = linux_keyutils::KeyRing::from_special_id(linux_keyutils::KeyRingIdentifier::User, false).unwrap();
    ring.search(&description).unwrap().invalidate().unwrap();
    let problem = Vault::open(&folder, &VaultOptions::default()).await.err().unwrap();
    assert_eq!(problem.code(), "vault_key_gone");
    assert!(problem.hint().unwrap().contains("reboot"));
}
