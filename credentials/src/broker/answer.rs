//! What an SDK asked at an endpoint, answered with a lease, or with the reason why there is none.

use std::sync::Arc;

use super::session::Wanted;
use super::{Asker, Broker, BrokerProblem, now};
use crate::endpoint::{self, Answer, Cloud, Dialect, Door, Want};
use crate::lease::Material;
use crate::outlet::Outlet;
use crate::source;

impl Broker {
    /// Whose SDKs could ask an endpoint for this identity; `None` where its credential has no such place. Fetches a lease,
    /// so that what is wrong is told before a program starts.
    ///
    /// # Errors
    /// Why there is no lease for this asker.
    pub async fn cloud_of(self: &Arc<Self>, name: &str, asker: &Asker) -> Result<Option<Cloud>, BrokerProblem> {
        let identity = self.identity(name)?;
        let bound = self.bound(&identity, &Outlet::Env, asker)?;
        let lease = self.lease_for(name, &Wanted { bound, ..Wanted::default() }).await?;
        Ok(match (&lease.material, Cloud::of(&identity)) {
            (Material::Aws { .. }, Some(Cloud::Aws)) => Some(Cloud::Aws),
            (Material::Token(_), cloud @ Some(Cloud::Google | Cloud::Azure)) => cloud,
            _ => None,
        })
    }

    /// The answer to what an SDK asked at an endpoint. Whoever calls this knows the peer already.
    pub async fn answer(self: &Arc<Self>, door: &Door, asked: &http::request::Parts, asker: &Asker) -> Answer {
        let want = endpoint::read(door, asked, now());
        let (name, identity) = (&door.identity, |dialect: &Dialect| {
            self.identity(&door.identity).map_err(|problem| dialect.denied(&problem))
        });
        let dialect = match want {
            Want::Said(answer) => return answer,
            Want::Role => return endpoint::role(name),
            Want::Credential(dialect) => dialect,
            Want::Fact(fact) => match identity(&Dialect::Google).map(|identity| endpoint::told(&fact, &identity)) {
                Ok(Err(dialect)) => dialect,
                Ok(Ok(answer)) | Err(answer) => return answer,
            },
        };
        let known = match identity(&dialect) {
            Ok(identity) => identity,
            Err(answer) => return answer,
        };
        let outlet = dialect.outlet(&known, now());
        // Not refused but not there: gcloud asks for an id token beside each access token, and goes on without one.
        if let Ok(outlet) = &outlet
            && let Err(words) = source::purpose(&known, outlet.purpose())
        {
            return dialect.absent(&format!("`{name}` {words}"));
        }
        let issued = match outlet {
            Ok(outlet) => self.issue(name, &outlet, asker).await,
            Err(problem) => Err(problem),
        };
        issued.map_or_else(|problem| dialect.denied(&problem), |credential| dialect.given(credential))
    }
}
