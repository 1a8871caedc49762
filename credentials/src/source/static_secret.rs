//! A secret that does not expire: entered once at `pdev login`, stored in the vault.

use super::SourceContext;
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;
use crate::vault::{Vault, VaultProblem};

pub(super) fn login_item(name: &str) -> String {
    format!("login/{name}")
}

pub(super) fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let stored = context.vault()?.get(&login_item(&identity.name))?;
    let secret =
        stored.ok_or_else(|| SourceProblem::NeedsLogin(format!("no secret is stored for `{}`", identity.name)))?;
    let material = match identity.text("kind") {
        Some("aws") => Material::Aws {
            access_key_id: identity.text("access_key_id").unwrap_or_default().to_owned(),
            secret_access_key: secret,
            session_token: None,
            account: None,
        },
        Some("password") => {
            Material::Password { username: identity.text("username").unwrap_or_default().to_owned(), password: secret }
        }
        _ => Material::Token(secret),
    };
    Ok(Lease::new(material, Times { issued_at: context.now, expires_at: None, skew: 0 }))
}

/// Stores the secret of a `static` identity.
///
/// # Errors
/// When the vault cannot be written.
pub(crate) fn store_secret(vault: &Vault, identity: &Identity, secret: &Secret) -> Result<(), VaultProblem> {
    vault.put(&login_item(&identity.name), secret)
}
