//! What an SDK asked at an endpoint, answered with a lease, or with the reason why there is none.

use std::sync::Arc;

use super::{Asker, Broker, now};
use crate::endpoint::{self, Answer, Dialect, Door, Want};

impl Broker {
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
        let outlet = match identity(&dialect) {
            Ok(identity) => dialect.outlet(&identity, now()),
            Err(answer) => return answer,
        };
        let issued = match outlet {
            Ok(outlet) => self.issue(name, &outlet, asker).await,
            Err(problem) => Err(problem),
        };
        issued.map_or_else(|problem| dialect.denied(&problem), |credential| dialect.given(credential))
    }
}
