//! The environment variables with which an SDK finds its endpoint.

use std::net::SocketAddr;

use super::ENDPOINT_TOKEN_FILE;
use super::{Cloud, azure, derive_secret};
use crate::identity::Identity;
use crate::secret::Secret;

#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
    /// The value must not be displayed.
    pub is_sensitive: bool,
}

/// The location of the endpoint, as the requesting program sees it.
pub struct EndpointLocation<'a> {
    pub address: SocketAddr,
    pub token: &'a Secret,
    /// The folder of the token file, as the program sees it.
    pub token_folder: &'a str,
    /// Whether the program can read the configuration of the user's own tools.
    pub shares_home: bool,
}

/// The variables for the SDKs of a cloud. SDKs read the configuration in the user's home before an endpoint, so it is
/// hidden.
#[must_use]
pub fn variables(cloud: Cloud, identity: &Identity, location: &EndpointLocation<'_>) -> Vec<Variable> {
    let EndpointLocation { address, token, token_folder: folder, shares_home } = location;
    let plain = |name, value: String| Variable { name, value, is_sensitive: false };
    match cloud {
        Cloud::Aws => {
            let mut all = vec![
                plain("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}{}", super::aws::CONTAINER_PATH)),
                plain("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{folder}/{ENDPOINT_TOKEN_FILE}")),
            ];
            if *shares_home {
                let files = ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"];
                all.extend(files.map(|name| plain(name, "/dev/null".to_owned())));
            }
            all
        }
        Cloud::Google => {
            // Libraries read the first variable, and the second for their ping. gcloud reads only the third.
            let names = ["GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"];
            let mut all: Vec<Variable> = names.into_iter().map(|name| plain(name, address.to_string())).collect();
            all.extend(identity.text("project").map(|project| plain("GOOGLE_CLOUD_PROJECT", project.to_owned())));
            if *shares_home {
                all.push(plain("CLOUDSDK_CONFIG", format!("{folder}/gcloud")));
            }
            all
        }
        Cloud::Azure => vec![
            plain("IDENTITY_ENDPOINT", format!("http://{address}{}", azure::APP_SERVICE_PATH)),
            // SDKs read this header from the environment only, so `docker inspect` shows it. A derived value does not
            // reveal the token of the endpoint.
            Variable { name: "IDENTITY_HEADER", value: derive_secret(token, azure::HEADER_LABEL), is_sensitive: true },
        ],
    }
}
