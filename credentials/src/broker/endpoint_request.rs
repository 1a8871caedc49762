//! Answers the requests of SDKs at credential endpoints, with a lease or with the reason why there is none.

use std::sync::Arc;

use super::session::LeaseRequest;
use super::{Broker, BrokerProblem, Requester, now};
use crate::endpoint::{self, Cloud, EndpointAccess, EndpointProtocol, EndpointRequest, EndpointResponse};
use crate::format::CredentialFormat;
use crate::lease::Material;
use crate::source;

impl Broker {
    /// The cloud whose SDKs can use an endpoint for this identity; `None` if its credential fits no endpoint. Fetches a
    /// lease, so that errors are reported before a program starts.
    ///
    /// # Errors
    /// The reason why there is no lease for this requester.
    pub async fn resolve_cloud(
        self: &Arc<Self>,
        name: &str,
        requester: &Requester,
    ) -> Result<Option<Cloud>, BrokerProblem> {
        let identity = self.identity(name)?;
        let restriction = self.session_restriction(&identity, &CredentialFormat::Env, requester)?;
        let lease = self.obtain_lease_for(name, &LeaseRequest { restriction, ..LeaseRequest::default() }).await?;
        Ok(match (&lease.material, Cloud::of_identity(&identity)) {
            (Material::Aws { .. }, Some(Cloud::Aws)) => Some(Cloud::Aws),
            (Material::Token(_), cloud @ Some(Cloud::Google | Cloud::Azure)) => cloud,
            _ => None,
        })
    }

    /// Answers a request at an endpoint. The caller has already identified the peer.
    pub async fn handle_endpoint_request(
        self: &Arc<Self>,
        access: &EndpointAccess,
        request: &http::request::Parts,
        requester: &Requester,
    ) -> EndpointResponse {
        let parsed = endpoint::parse_request(access, request, now());
        let (name, load_identity) = (&access.identity, |protocol: &EndpointProtocol| {
            self.identity(&access.identity).map_err(|problem| protocol.error_response(&problem))
        });
        let protocol = match parsed {
            EndpointRequest::Answered(response) => return response,
            EndpointRequest::RoleName => return endpoint::role_response(name),
            EndpointRequest::Credential(protocol) => protocol,
            EndpointRequest::Metadata(query) => match load_identity(&EndpointProtocol::Google)
                .map(|identity| endpoint::metadata_response(&query, &identity))
            {
                Ok(Err(protocol)) => protocol,
                Ok(Ok(response)) | Err(response) => return response,
            },
        };
        let identity = match load_identity(&protocol) {
            Ok(identity) => identity,
            Err(response) => return response,
        };
        let format = protocol.credential_format(&identity, now());
        // Respond with "not found" instead of a refusal: gcloud requests an id token with each access token, and
        // continues without one.
        if let Ok(format) = &format
            && let Err(reason) = source::supported_purpose(&identity, format.purpose())
        {
            return protocol.not_found_response(&format!("`{name}` {reason}"));
        }
        let issued = match format {
            Ok(format) => self.issue(name, &format, requester).await,
            Err(problem) => Err(problem),
        };
        issued.map_or_else(
            |problem| protocol.error_response(&problem),
            |credential| protocol.credential_response(credential),
        )
    }
}
