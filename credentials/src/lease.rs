//! One credential as a source gave it, with the times that decide when the next one is fetched.

use std::time::Duration;

use crate::secret::Secret;

/// What a tool is handed in the end.
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
    /// For one that is held until it ends.
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

    /// Whether a part of it may end up in the swap.
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
    /// Where it is known: when the login behind it ends for good.
    pub login_end: Option<LoginEnd>,
}

impl Lease {
    #[must_use]
    pub fn new(material: Material, times: Times) -> Self {
        Self { material, times, login_end: None }
    }

    /// For as long as it lasts.
    #[must_use]
    pub(crate) fn into_protected(self) -> Self {
        Self { material: self.material.into_protected(), ..self }
    }

    /// With the end of the login that it came from, where that is known.
    #[must_use]
    pub fn with_login_end(self, login: Option<LoginEnd>) -> Self {
        Self { login_end: login, ..self }
    }
}

/// A login that ends at a known time, whatever is renewed before: then a person is needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginEnd {
    /// Whom the person signs in as.
    pub identity: String,
    /// Unix milliseconds: when it began, and when it ends.
    pub started_at: i64,
    pub ends_at: i64,
}

/// Unix milliseconds by this machine's clock; `skew` says by how much the issuer's clock is ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    pub issued_at: i64,
    pub expires_at: Option<i64>,
    pub skew: i64,
}

impl Times {
    /// From an answer that says how long the credential lives.
    #[must_use]
    pub fn from_lifetime(now: i64, life: Duration) -> Self {
        let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX / 4);
        Self { issued_at: now, expires_at: Some(now.saturating_add(life)), skew: 0 }
    }
}
