//! The identity of this machine, for state that several machines may share in one home folder.

use std::path::Path;

/// The machine's id (machine-id(5)), or its host name if it has no id. Safe as part of a file name.
#[must_use]
pub fn machine_id() -> String {
    let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| read_id(Path::new(path)));
    id.unwrap_or_else(|| sanitize(&rustix::system::uname().nodename().to_string_lossy()))
}

fn read_id(path: &Path) -> Option<String> {
    let id = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn sanitize(name: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    format!("host-{}", name.chars().map(safe).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_ids_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine-id");
        for (text, is_id) in [("", false), ("uninitialized\n", false), ("0123456789abcdef0123456789abcdef\n", true)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_id(&path).is_some(), is_id, "{text}");
        }
        assert_eq!(sanitize("Dev.Box/1"), "host-dev-box-1");
        assert!(!machine_id().is_empty());
    }
}
