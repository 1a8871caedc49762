//! A lease: one short-lived credential of a source, with the times that decide when the next one is fetched.

use std::time::Duration;

use crate::secret::Secret;

/// The purpose of a lease, in addition to the definition of its identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Purpose {
    #[default]
    General,
    /// A token for one service of the cloud, by its Azure resource name.
    Resource(String),
    /// An id token for this audience.
    IdToken(String),
}

/// The credential that a tool receives.
pub enum Material {
    Aws {
        access_key_id: String,
        secret_access_key: Secret,
        session_token: Option<Secret>,
        account: Option<String>,
    },
    /// A bearer token.
    Token(Secret),
    Password {
        username: String,
        password: Secret,
    },
}

impl Material {
    /// Moves the secrets of a long-lived credential to protected memory.
    pub(crate) fn into_protected(self) -> Self {
        match self {
            Self::Aws { access_key_id, secret_access_key, session_token, account } => Self::Aws {
                access_key_id,
                secret_access_key: secret_access_key.into_protected(),
                session_token: session_token.map(Secret::into_protected),
                account,
            },
            Self::Token(token) => Self::Token(token.into_protected()),
            Self::Password { username, password } => Self::Password { username, password: password.into_protected() },
        }
    }

    /// Whether a secret in it may be written to the swap.
    pub(crate) fn is_swappable(&self) -> bool {
        match self {
            Self::Aws { secret_access_key, session_token, .. } => {
                secret_access_key.is_swappable() || session_token.as_ref().is_some_and(Secret::is_swappable)
            }
            Self::Token(secret) | Self::Password { password: secret, .. } => secret.is_swappable(),
        }
    }

    #[must_use]
    pub fn description(&self) -> &'static str {
        match self {
            Self::Aws { .. } => "AWS credentials",
            Self::Token(_) => "a token",
            Self::Password { .. } => "a password",
        }
    }
}

pub struct Lease {
    pub material: Material,
    pub times: Times,
    /// The permanent end of the login behind the lease, if known.
    pub login_end: Option<LoginEnd>,
}

impl Lease {
    #[must_use]
    pub fn new(material: Material, times: Times) -> Self {
        Self { material, times, login_end: None }
    }

    /// Moves its secrets to protected memory, because a lease lives for up to hours.
    #[must_use]
    pub(crate) fn into_protected(self) -> Self {
        Self { material: self.material.into_protected(), ..self }
    }

    /// Sets the end of the login that provided the lease, if known.
    #[must_use]
    pub fn with_login_end(self, login: Option<LoginEnd>) -> Self {
        Self { login_end: login, ..self }
    }
}

/// The known end of a login. Renewals of the lease do not extend it, so the user must sign in again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginEnd {
    /// The identity to sign in to.
    pub identity: String,
    /// The start and the end of the login, in Unix milliseconds.
    pub started_at: i64,
    pub ends_at: i64,
}

/// Unix milliseconds. `issued_at` is by this machine's clock, `expires_at` by the issuer's. `skew` is the issuer's
/// clock minus this machine's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    pub issued_at: i64,
    pub expires_at: Option<i64>,
    pub skew: i64,
}

impl Times {
    /// From a response that contains the lifetime of the credential.
    #[must_use]
    pub fn from_lifetime(now: i64, lifetime: Duration) -> Self {
        // A quarter of the range, so that later additions do not overflow.
        let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX / 4);
        Self { issued_at: now, expires_at: Some(now.saturating_add(lifetime)), skew: 0 }
    }
}
