//! Access to the list of all previews: a token that only this user can read. Without it, other users and programs of
//! this machine would see the names of all apps and branches.
//!
//! `pdev open --list` opens the page with the token. The page stores it as a cookie and leaves it out of its URL.

use std::io;
use std::path::Path;

use http::header::{CACHE_CONTROL, COOKIE, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use super::body::ResponseBody;

/// The file in the state folder.
pub const TOKEN_FILE: &str = "list-token";
const TOKEN_LENGTH: usize = 32;
const QUERY_PREFIX: &str = "token=";
const COOKIE_PREFIX: &str = "pdev-list=";

/// `Default` is no token: the list is closed to all.
#[derive(Clone, Debug, Default)]
pub struct ListToken(String);

pub(super) enum ListAccess {
    Allowed,
    /// Stores the token as a cookie and opens the page again.
    Redirect(Box<Response<ResponseBody>>),
    Denied,
}

impl ListToken {
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(token.to_owned())
    }

    /// The token in the state folder, so that bookmarks and cookies survive a restart of the agent.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn load_or_create(state: &Path) -> io::Result<Self> {
        let path = state.join(TOKEN_FILE);
        match std::fs::read_to_string(&path) {
            Ok(token) if token.len() == TOKEN_LENGTH => return Ok(Self(token)),
            _ => {}
        }
        let token = host::files::random_hex()?;
        host::files::replace_file(&path, token.as_bytes(), 0o600)?;
        Ok(Self(token))
    }

    pub(super) fn check(&self, parts: &Parts) -> ListAccess {
        let query = parts.uri.query().unwrap_or_default().split('&');
        if query.filter_map(|pair| pair.strip_prefix(QUERY_PREFIX)).any(|token| self.matches(token)) {
            return self.redirect().map_or(ListAccess::Denied, |response| ListAccess::Redirect(Box::new(response)));
        }
        let cookies = parts.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies = cookies.flat_map(|value| value.split(';'));
        let is_allowed =
            cookies.any(|cookie| cookie.trim().strip_prefix(COOKIE_PREFIX).is_some_and(|it| self.matches(it)));
        if is_allowed { ListAccess::Allowed } else { ListAccess::Denied }
    }

    /// In constant time.
    fn matches(&self, given: &str) -> bool {
        let differences = self.0.bytes().zip(given.bytes()).fold(0, |found, (own, other)| found | (own ^ other));
        !self.0.is_empty() && self.0.len() == given.len() && differences == 0
    }

    fn redirect(&self) -> Option<Response<ResponseBody>> {
        let cookie = format!("{COOKIE_PREFIX}{}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000", self.0);
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::SEE_OTHER;
        let headers = response.headers_mut();
        headers.insert(SET_COOKIE, HeaderValue::from_str(&cookie).ok()?);
        headers.insert(LOCATION, HeaderValue::from_static("/"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Some(response)
    }
}
