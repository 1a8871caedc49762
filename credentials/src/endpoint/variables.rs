//! The variables by which an SDK finds its endpoint.

use std::net::SocketAddr;

use super::{Cloud, azure, derive_secret};
use crate::delivery::ENDPOINT_TOKEN_FILE;
use crate::identity::Identity;
use crate::secret::Secret;

#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
    /// Is shown nowhere.
    pub is_sensitive: bool,
}

/// Where a program runs that is going to ask.
pub struct EndpointLocation<'a> {
    pub address: SocketAddr,
    pub token: &'a Secret,
    /// The folder of the token's file, as the program sees it.
    pub token_folder: &'a str,
    /// Whether it finds what its user's own tools are configured with.
    pub shares_home: bool,
}

/// What SDKs of a cloud are told; what the user's home says would win over an endpoint, so it is taken out of sight.
#[must_use]
pub fn variables(cloud: Cloud, identity: &Identity, spot: &EndpointLocation<'_>) -> Vec<Variable> {
    let EndpointLocation { address: at, token, token_folder: folder, shares_home } = spot;
    let plain = |name, value: String| Variable { name, value, is_sensitive: false };
    match cloud {
        Cloud::Aws => {
            let mut all = vec![
                plain("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{at}{}", super::aws::CONTAINER_PATH)),
                plain("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{folder}/{ENDPOINT_TOKEN_FILE}")),
            ];
            if *shares_home {
                let files = ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"];
                all.extend(files.map(|name| plain(name, "/dev/null".to_owned())));
            }
            all
        }
        Cloud::Google => {
            // The first for libraries, the second for their ping, the third for gcloud, which reads no other.
            let names = ["GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"];
            let mut all: Vec<Variable> = names.into_iter().map(|name| plain(name, at.to_string())).collect();
            all.extend(identity.text("project").map(|project| plain("GOOGLE_CLOUD_PROJECT", project.to_owned())));
            if *shares_home {
                all.push(plain("CLOUDSDK_CONFIG", format!("{folder}/gcloud")));
            }
            all
        }
        Cloud::Azure => vec![
            plain("IDENTITY_ENDPOINT", format!("http://{at}{}", azure::APP_SERVICE_PATH)),
            Variable { name: "IDENTITY_HEADER", value: derive_secret(token, azure::HEADER_LABEL), is_sensitive: true },
        ],
    }
}
