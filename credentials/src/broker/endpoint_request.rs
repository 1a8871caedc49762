//! Answers the requests of SDKs at credential endpoints, with a credential or an error in the SDK's own protocol.

use std::sync::Arc;

use host::clock::now_milliseconds;

use super::session::LeaseRequest;
use super::{Broker, Requester};
use crate::endpoint::{self, Cloud, EndpointAccess, EndpointProtocol, EndpointResponse, MetadataAnswer, ParsedRequest};
use crate::lease::{Material, Purpose};
use crate::problem::BrokerProblem;
use crate::source;

impl Broker {
    /// The cloud whose SDKs can use an endpoint for this identity. `None` if no SDK accepts the identity's credential
    /// from an endpoint. Fetches a lease, so that errors are reported before a program starts.
    ///
    /// # Errors
    /// The reason why there is no lease for this requester.
    pub async fn resolve_cloud(
        self: &Arc<Self>,
        name: &str,
        requester: &Requester,
    ) -> Result<Option<Cloud>, BrokerProblem> {
        let identity = self.identity(name)?;
        let restriction = self.session_restriction(&identity, &Purpose::General, requester)?;
        let lease = self.obtain_lease_for(name, &LeaseRequest { restriction, ..LeaseRequest::default() }).await?;
        Ok(match (&lease.material, Cloud::of_identity(&identity)) {
            (Material::Aws { .. }, Some(Cloud::Aws)) => Some(Cloud::Aws),
            (Material::Token(_), cloud @ Some(Cloud::Google | Cloud::Azure)) => cloud,
            _ => None,
        })
    }

    /// Answers a request at an endpoint. The owner of the listener has already identified the requester.
    pub async fn handle_endpoint_request(
        self: &Arc<Self>,
        access: &EndpointAccess,
        request: &http::request::Parts,
        requester: &Requester,
    ) -> EndpointResponse {
        let name = &access.identity;
        let protocol = match endpoint::parse_request(access, request, now_milliseconds()) {
            ParsedRequest::Response(response) => return response,
            ParsedRequest::RoleName => return endpoint::role_response(name),
            ParsedRequest::Credential(protocol) => protocol,
            ParsedRequest::Metadata(query) => match self.identity(name) {
                Ok(identity) => match endpoint::answer_metadata_query(&query, &identity) {
                    MetadataAnswer::Response(response) => return response,
                    MetadataAnswer::NeedsCredential(protocol) => protocol,
                },
                // Only Google's protocol has metadata queries.
                Err(problem) => return EndpointProtocol::Google.error_response(&problem),
            },
        };
        match self.issue_for_protocol(name, &protocol, requester).await {
            Ok(response) => response,
            Err(problem) => protocol.error_response(&problem),
        }
    }

    async fn issue_for_protocol(
        self: &Arc<Self>,
        name: &str,
        protocol: &EndpointProtocol,
        requester: &Requester,
    ) -> Result<EndpointResponse, BrokerProblem> {
        let identity = self.identity(name)?;
        let format = protocol.credential_format(&identity, now_milliseconds())?;
        // An id token is not a purpose of every source. gcloud requests one with each access token, and continues
        // without it if the response is "not found" instead of a refusal.
        if let Err(reason) = source::reduce_to_supported_purpose(&identity, format.purpose()) {
            return Ok(protocol.not_found_response(&format!("`{name}` {reason}")));
        }
        let credential = self.issue(name, &format, requester).await?;
        Ok(protocol.credential_response(credential))
    }
}
