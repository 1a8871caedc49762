//! What an SDK asked at an endpoint, answered with a lease, or with the reason why there is none.

use std::sync::Arc;

use super::session::LeaseRequest;
use super::{Broker, BrokerProblem, Requester, now};
use crate::endpoint::{self, Cloud, EndpointAccess, EndpointProtocol, EndpointRequest, EndpointResponse};
use crate::format::CredentialFormat;
use crate::lease::Material;
use crate::source;

impl Broker {
    /// Whose SDKs could ask an endpoint for this identity; `None` where its credential has no such place. Fetches a lease,
    /// so that what is wrong is told before a program starts.
    ///
    /// # Errors
    /// Why there is no lease for this asker.
    pub async fn resolve_cloud(
        self: &Arc<Self>,
        name: &str,
        asker: &Requester,
    ) -> Result<Option<Cloud>, BrokerProblem> {
        let identity = self.identity(name)?;
        let bound = self.session_restriction(&identity, &CredentialFormat::Env, asker)?;
        let lease =
            self.obtain_lease_for(name, &LeaseRequest { restriction: bound, ..LeaseRequest::default() }).await?;
        Ok(match (&lease.material, Cloud::of_identity(&identity)) {
            (Material::Aws { .. }, Some(Cloud::Aws)) => Some(Cloud::Aws),
            (Material::Token(_), cloud @ Some(Cloud::Google | Cloud::Azure)) => cloud,
            _ => None,
        })
    }

    /// The answer to what an SDK asked at an endpoint. Whoever calls this knows the peer already.
    pub async fn handle_endpoint_request(
        self: &Arc<Self>,
        door: &EndpointAccess,
        asked: &http::request::Parts,
        asker: &Requester,
    ) -> EndpointResponse {
        let want = endpoint::parse_request(door, asked, now());
        let (name, identity) = (&door.identity, |dialect: &EndpointProtocol| {
            self.identity(&door.identity).map_err(|problem| dialect.error_response(&problem))
        });
        let dialect = match want {
            EndpointRequest::Answered(answer) => return answer,
            EndpointRequest::RoleName => return endpoint::role_response(name),
            EndpointRequest::Credential(dialect) => dialect,
            EndpointRequest::Metadata(fact) => match identity(&EndpointProtocol::Google)
                .map(|identity| endpoint::metadata_response(&fact, &identity))
            {
                Ok(Err(dialect)) => dialect,
                Ok(Ok(answer)) | Err(answer) => return answer,
            },
        };
        let known = match identity(&dialect) {
            Ok(identity) => identity,
            Err(answer) => return answer,
        };
        let outlet = dialect.credential_format(&known, now());
        // Not refused but not there: gcloud asks for an id token beside each access token, and goes on without one.
        if let Ok(outlet) = &outlet
            && let Err(words) = source::supported_purpose(&known, outlet.purpose())
        {
            return dialect.not_found_response(&format!("`{name}` {words}"));
        }
        let issued = match outlet {
            Ok(outlet) => self.issue(name, &outlet, asker).await,
            Err(problem) => Err(problem),
        };
        issued.map_or_else(
            |problem| dialect.error_response(&problem),
            |credential| dialect.credential_response(credential),
        )
    }
}
