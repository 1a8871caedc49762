//! The variables by which an SDK finds its endpoint.

use std::net::SocketAddr;

use super::{Cloud, azure, derived};
use crate::delivery::ENDPOINT_TOKEN;
use crate::identity::Identity;
use crate::secret::Secret;

#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    pub value: String,
    /// Is shown nowhere.
    pub sensitive: bool,
}

/// Where a program runs that is going to ask.
pub struct Spot<'a> {
    pub at: SocketAddr,
    pub token: &'a Secret,
    /// The folder of the token's file, as the program sees it.
    pub folder: &'a str,
    /// Whether it finds what its user's own tools are configured with.
    pub shares_home: bool,
}

/// What SDKs of a cloud are told; what the user's home says would win over an endpoint, so it is taken out of sight.
#[must_use]
pub fn variables(cloud: Cloud, identity: &Identity, spot: &Spot<'_>) -> Vec<Variable> {
    let Spot { at, token, folder, shares_home } = spot;
    let plain = |name, value: String| Variable { name, value, sensitive: false };
    match cloud {
        Cloud::Aws => {
            let mut all = vec![
                plain("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{at}{}", super::aws::CONTAINER)),
                plain("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{folder}/{ENDPOINT_TOKEN}")),
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
            plain("IDENTITY_ENDPOINT", format!("http://{at}{}", azure::APP_SERVICE)),
            Variable { name: "IDENTITY_HEADER", value: derived(token, azure::HEADER), sensitive: true },
        ],
    }
}
