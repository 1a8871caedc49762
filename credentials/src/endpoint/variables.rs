//! The variables by which an SDK finds its endpoint.

use std::net::SocketAddr;

use super::{Cloud, azure, derived};
use crate::identity::Identity;
use crate::secret::Secret;

#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
    /// Is shown nowhere.
    pub sensitive: bool,
}

/// For a cloud whose SDKs ask at `at`; `token_file` is the path of the token as the program sees it.
#[must_use]
pub fn variables(cloud: Cloud, identity: &Identity, at: SocketAddr, token: &Secret, token_file: &str) -> Vec<Variable> {
    let plain = |name, value: String| Variable { name, value, sensitive: false };
    match cloud {
        Cloud::Aws => vec![
            plain("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{at}{}", super::aws::CONTAINER)),
            plain("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file.to_owned()),
        ],
        Cloud::Google => {
            // The first for libraries, the second for their ping, the third for gcloud, which reads no other.
            let names = ["GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"];
            let mut all: Vec<Variable> = names.into_iter().map(|name| plain(name, at.to_string())).collect();
            all.extend(identity.text("project").map(|project| plain("GOOGLE_CLOUD_PROJECT", project.to_owned())));
            all
        }
        Cloud::Azure => vec![
            plain("IDENTITY_ENDPOINT", format!("http://{at}{}", azure::APP_SERVICE)),
            Variable { name: "IDENTITY_HEADER", value: derived(token, azure::HEADER), sensitive: true },
        ],
    }
}
