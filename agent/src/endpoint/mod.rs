//! `identity:` of a service, carried out: an address for each unit that its cloud's SDKs ask by themselves.
//!
//! What is asked and answered is the broker's business. Here is decided where a unit asks, by which variables it finds
//! the place, and who is let in: the unit's own programs, told by its runtime, and nobody else.

mod listener;
pub mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use credentials::Secret;
use credentials::approval::IdentityUse;
use credentials::endpoint::{Cloud, EndpointAccess, EndpointLocation, variables};
use plan::Application;
use plan::application::{EnvValue, PreviewName, RuntimeKind, Unit, UnitName};
use protocol::Problem;

use crate::approvals::{Purpose, identity_use_of, needs_approval};
use crate::convert;
use crate::registry::Record;
use crate::sessions;
use crate::shared::Shared;

/// Among a unit's ports in the registry; no port of a manifest can be called so.
const PORT_NAME: &str = "@identity";

/// One unit's endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointBinding {
    pub unit: UnitName,
    pub identity: String,
    /// What has to stay approved; `None` where the identity's owner wants no questions.
    pub required_approval: Option<IdentityUse>,
    pub runtime: RuntimeKind,
    pub address: SocketAddr,
}

#[derive(Default)]
pub struct EndpointBindings {
    pub bindings: Vec<EndpointBinding>,
    /// Units that run without their identity or wait for a person, and why.
    pub notes: Vec<(UnitName, String)>,
}

/// Chooses an address for every unit with an identity, and gives it the variables by which SDKs find it. The identity is
/// taken off units that cannot have one here. Ports are claimed and remembered, because programs outlive the agent.
///
/// # Errors
/// When no port is free, or the state folder or the folder for secrets cannot be written.
pub async fn bind_endpoints(
    shared: &Shared,
    record: &Record,
    application: &mut Application,
    ports: &mut BTreeMap<String, u16>,
    purpose: Purpose,
) -> Result<EndpointBindings, Problem> {
    let mut arranged = EndpointBindings::default();
    let wanting: Vec<UnitName> =
        application.units.values().filter(|unit| unit.identity.is_some()).map(|unit| unit.name.clone()).collect();
    if wanting.is_empty() {
        return Ok(arranged);
    }
    claim_endpoint_ports(shared, record, &wanting, ports)?;
    for name in wanting {
        let Some(unit) = application.units.get_mut(&name) else { continue };
        let port = ports.get(&endpoint_port_key(&name)).copied().unwrap_or_default();
        match bind_endpoint(shared, record, unit, port, purpose).await? {
            Ok(opening) => {
                if let Some((first, end)) = shared.broker.pending_login_of(&opening.identity) {
                    let why = match end {
                        Some(at) => format!("whose login ends in {}", convert::format_time_until(at)),
                        None => "and nobody is signed in".to_owned(),
                    };
                    let note = format!(
                        "`{name}` acts as `{}`, {why}: `pdev login {first}` at any time, without a restart",
                        opening.identity
                    );
                    arranged.notes.push((name.clone(), note));
                }
                if let Some(why) = sessions::service_refusal_reason(shared, &opening.identity, &record.name.id) {
                    arranged
                        .notes
                        .push((name.clone(), format!("`{name}` is given nothing as `{}`: {why}", opening.identity)));
                }
                arranged.bindings.push(opening);
            }
            Err(why) => {
                let identity = unit.identity.take().unwrap_or_default();
                arranged.notes.push((name.clone(), format!("`{name}` runs without the identity `{identity}`: {why}")));
            }
        }
    }
    Ok(arranged)
}

fn endpoint_port_key(unit: &str) -> String {
    format!("{unit}.{PORT_NAME}")
}

fn claim_endpoint_ports(
    shared: &Shared,
    record: &Record,
    units: &[UnitName],
    ports: &mut BTreeMap<String, u16>,
) -> Result<(), Problem> {
    let wishes: Vec<String> = units.iter().map(|unit| endpoint_port_key(unit)).collect();
    let id = &record.name.id;
    let claimed = shared.registry.claim_ports(id, ports, &wishes);
    *ports = claimed.map_err(|words| Problem::new("no_free_port", 503, words))?;
    let written = shared.registry.edit(id, |record| record.ports.clone_from(ports));
    written.map_err(|error| crate::preview::naming::state_write_problem(&error))
}

/// The unit's endpoint, or in words why it has none.
async fn bind_endpoint(
    shared: &Shared,
    record: &Record,
    unit: &mut Unit,
    port: u16,
    purpose: Purpose,
) -> Result<Result<EndpointBinding, String>, Problem> {
    let preview = &record.name;
    let name = unit.identity.clone().unwrap_or_default();
    let identity = match shared.broker.identity(&name) {
        Ok(identity) => identity,
        Err(problem) => {
            let hint = problem.hint.unwrap_or_default();
            return Ok(Err(format!("{}. {hint} Then `pdev up` again.", problem.message)));
        }
    };
    let Some(cloud) = Cloud::of_identity(&identity) else {
        let words = "which cloud its token is for is not said. Add `cloud = \"google\"` or `cloud = \"azure\"` to it in \
                     identities.toml.";
        return Ok(Err(words.to_owned()));
    };
    let wanted = identity_use_of(record, &unit.name, &identity);
    if let Some(why) = shared.access.refusal_reason(&wanted, &identity, &record.request.folder, purpose) {
        return Ok(Err(why));
    }
    let of = needs_approval(&identity).then_some(wanted);
    let runtime = unit.body.runtime();
    let driver = shared.drivers.driver(runtime).map_err(|problem| convert::driver_problem(&problem, None))?;
    let Some(ip) = driver.credential_endpoint_address().await.ok().flatten() else {
        let words = match runtime {
            RuntimeKind::Docker => "the engine's containers cannot reach this machine's addresses",
            RuntimeKind::Process => "this system does not tell whose connections are whose",
        };
        return Ok(Err(words.to_owned()));
    };
    let address = SocketAddr::new(ip, port);
    let token = endpoint_token(shared, preview, &unit.name)?;
    let own_folder = shared.delivery.unit_folder(&preview.id.0, &unit.name).display().to_string();
    let (folder, shares_home) = match runtime {
        RuntimeKind::Docker => ("/run/secrets", false),
        RuntimeKind::Process => (own_folder.as_str(), true),
    };
    let spot = EndpointLocation { address, token: &token, token_folder: folder, shares_home };
    let found = variables(cloud, &identity, &spot);
    let text: Vec<String> = found.iter().map(|one| format!("{}={}", one.name, one.value)).collect();
    // What ran with a person's lease may hold it still, so that a session's preview starts such units anew.
    let session = record.session.as_ref().map(|session| format!(" {}", session.id)).unwrap_or_default();
    unit.hash = plan::hash::with_endpoint(&unit.hash, &(text.join(" ") + &session));
    for variable in found {
        let value = EnvValue { value: variable.value, sensitive: variable.is_sensitive };
        // What the manifest says itself was said on purpose.
        unit.env.entry(variable.name.to_owned()).or_insert(value);
    }
    Ok(Ok(EndpointBinding { unit: unit.name.clone(), identity: name, required_approval: of, runtime, address }))
}

fn endpoint_token(shared: &Shared, preview: &PreviewName, unit: &str) -> Result<Secret, Problem> {
    let token = shared.delivery.endpoint_token(&preview.id.0, unit);
    token.map_err(|error| Problem::new("secret_not_delivered", 500, error.to_string()).unit(unit))
}

/// The endpoints of one preview. Dropping it closes all of them.
#[derive(Default)]
pub struct Endpoints {
    listeners: Mutex<BTreeMap<UnitName, listener::EndpointListener>>,
}

impl Endpoints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnitName, listener::EndpointListener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens exactly these. Tells which could not be.
    pub async fn set(&self, shared: &Arc<Shared>, preview: &PreviewName, wanted: &[EndpointBinding]) -> Vec<String> {
        let names: BTreeSet<&UnitName> = wanted.iter().map(|opening| &opening.unit).collect();
        self.lock().retain(|name, _| names.contains(name));
        let mut problems = Vec::new();
        for opening in wanted {
            if let Err(words) = self.open_endpoint(shared, preview, opening).await {
                problems.push(format!("`{}` cannot ask for `{}`: {words}", opening.unit, opening.identity));
            }
        }
        problems
    }

    async fn open_endpoint(
        &self,
        shared: &Arc<Shared>,
        preview: &PreviewName,
        opening: &EndpointBinding,
    ) -> Result<(), String> {
        let token = endpoint_token(shared, preview, &opening.unit).map_err(|problem| problem.title)?;
        let door = Arc::new(EndpointAccess::new(opening.identity.clone(), token, vec![opening.address.to_string()]));
        if let Some(open) = self.lock().get(&opening.unit).filter(|open| open.is_bound_to(opening)) {
            open.replace_access(door);
            return Ok(());
        }
        drop(self.lock().remove(&opening.unit));
        let fresh = listener::open_for_unit(shared, preview, opening, door).await?;
        self.lock().insert(opening.unit.clone(), fresh);
        Ok(())
    }

    pub fn clear(&self) {
        self.lock().clear();
    }
}
