//! Implements `identity:` of a service: gives each unit a credential endpoint that its cloud's SDKs already use.
//!
//! The broker handles the requests. This module chooses the address of each unit's endpoint and the variables through
//! which SDKs find it. It admits only the unit's own programs, which the unit's runtime identifies.

mod listener;
pub mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use credentials::Secret;
use credentials::approval::IdentityUse;
use credentials::endpoint::{Cloud, EndpointAccess, EndpointLocation, variables};
use plan::Application;
use plan::application::{EnvValue, PreviewName, Unit, UnitName};
use plan::runtime::SecretLocation;
use plan::target::{Target, Targets};
use protocol::Problem;

use crate::approvals::{Purpose, identity_use_of, needs_approval};
use crate::convert;
use crate::registry::Record;
use crate::sessions;
use crate::shared::Shared;

/// The endpoint's name among the unit's ports in the registry. A manifest's port cannot have this name.
const PORT_NAME: &str = "@identity";

/// One unit's endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointBinding {
    pub unit: UnitName,
    pub identity: String,
    /// The use that must remain approved; `None` if the identity's configuration requires no approval.
    pub required_approval: Option<IdentityUse>,
    /// Where the unit runs.
    pub target: Target,
    pub address: SocketAddr,
}

#[derive(Default)]
pub struct EndpointBindings {
    pub bindings: Vec<EndpointBinding>,
    /// Units that run without their identity or need a login, and the reason.
    pub notes: Vec<(UnitName, String)>,
}

/// Chooses an endpoint address for every unit with an identity, and adds the variables through which SDKs find it.
///
/// Units that cannot use their identity here lose it, with a note. The registry stores the ports, because programs
/// outlive the agent.
///
/// # Errors
/// When no port is free, or the state folder or the folder for secrets cannot be written.
pub async fn bind_endpoints(
    shared: &Shared,
    record: &Record,
    application: &mut Application,
    ports: &mut BTreeMap<String, u16>,
    targets: &Targets,
    purpose: Purpose,
) -> Result<EndpointBindings, Problem> {
    let mut result = EndpointBindings::default();
    let units_with_identity: Vec<UnitName> =
        application.units.values().filter(|unit| unit.identity.is_some()).map(|unit| unit.name.clone()).collect();
    if units_with_identity.is_empty() {
        return Ok(result);
    }
    claim_endpoint_ports(shared, record, &units_with_identity, ports)?;
    for name in units_with_identity {
        let Some(unit) = application.units.get_mut(&name) else { continue };
        let port = ports.get(&endpoint_port_key(&name)).copied().unwrap_or_default();
        match bind_endpoint(shared, record, unit, (targets, port), purpose).await? {
            Ok(binding) => {
                if let Some((login, end)) = shared.broker.pending_login_of(&binding.identity) {
                    let state = match end {
                        Some(at) => format!("whose login ends in {}", convert::format_time_until(at)),
                        None => "which is not signed in".to_owned(),
                    };
                    let note = format!(
                        "`{name}` acts as `{}`, {state}: run `pdev login {login}` at any time, no restart is needed",
                        binding.identity
                    );
                    result.notes.push((name.clone(), note));
                }
                if let Some(reason) = sessions::service_refusal_reason(shared, &binding.identity, &record.name.id) {
                    let note = format!("`{name}` gets no credentials of `{}`: {reason}", binding.identity);
                    result.notes.push((name.clone(), note));
                }
                result.bindings.push(binding);
            }
            Err(reason) => {
                let identity = unit.identity.take().unwrap_or_default();
                result.notes.push((name.clone(), format!("`{name}` runs without the identity `{identity}`: {reason}")));
            }
        }
    }
    Ok(result)
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
    let keys: Vec<String> = units.iter().map(|unit| endpoint_port_key(unit)).collect();
    let id = &record.name.id;
    let claimed = shared.registry.claim_ports(id, ports, &keys);
    *ports = claimed.map_err(|reason| Problem::new("no_free_port", 503, reason))?;
    // Save the ports before a program learns its address, so that a restarted agent listens there again.
    let written = shared.registry.edit(id, |record| record.ports.clone_from(ports));
    written.map_err(|error| convert::state_write_problem(&error))
}

/// The unit's endpoint, or the reason why it has none.
async fn bind_endpoint(
    shared: &Shared,
    record: &Record,
    unit: &mut Unit,
    (targets, port): (&Targets, u16),
    purpose: Purpose,
) -> Result<Result<EndpointBinding, String>, Problem> {
    let preview = &record.name;
    let name = unit.identity.clone().unwrap_or_default();
    let identity = match shared.broker.identity(&name) {
        Ok(identity) => identity,
        Err(problem) => {
            let hint = problem.hint.unwrap_or_default();
            return Ok(Err(format!("{}. {hint} Then run `pdev up` again.", problem.message)));
        }
    };
    let Some(cloud) = Cloud::of_identity(&identity) else {
        let reason = "its configuration does not name the cloud of its token. Add `cloud = \"google\"` or \
                      `cloud = \"azure\"` to it in identities.toml.";
        return Ok(Err(reason.to_owned()));
    };
    let identity_use = identity_use_of(record, &unit.name, &identity);
    let rule = (purpose, shared.broker.approval_policy());
    if let Some(reason) = shared.access.refusal_reason(&identity_use, &identity, &record.request.folder, rule) {
        return Ok(Err(reason));
    }
    let required_approval = needs_approval(&identity).then_some(identity_use);
    let runtime = unit.runtime;
    let no_endpoint = || runtime.capabilities().wording.no_credential_endpoint.to_owned();
    let Some(target) = targets.get(runtime).cloned() else { return Ok(Err(no_endpoint())) };
    let driver = shared.drivers.driver(&target).map_err(|problem| convert::driver_problem(&problem, None))?;
    let Some(endpoints) = driver.credential_endpoints() else { return Ok(Err(no_endpoint())) };
    let Some(ip) = endpoints.endpoint_address().await.ok().flatten() else { return Ok(Err(no_endpoint())) };
    let address = SocketAddr::new(ip, port);
    let token = endpoint_token(shared, preview, &unit.name)?;
    let own_folder = shared.delivery.unit_folder(&preview.id.0, &unit.name).display().to_string();
    let token_folder = match runtime.capabilities().secrets {
        SecretLocation::Mounted { folder } => folder,
        SecretLocation::HostFolder => own_folder.as_str(),
    };
    let shares_home = runtime.capabilities().runs_as_user;
    let location = EndpointLocation { address, token: &token, token_folder, shares_home };
    let endpoint_variables = variables(cloud, &identity, &location);
    let assignments: Vec<String> =
        endpoint_variables.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect();
    // A running unit may still hold one of the user's leases. The session's id in the hash restarts such a unit when a
    // session takes over the preview.
    let session = record.session.as_ref().map(|session| format!(" {}", session.id)).unwrap_or_default();
    unit.hash = plan::hash::with_endpoint(&unit.hash, &(assignments.join(" ") + &session));
    for variable in endpoint_variables {
        let value = EnvValue { value: variable.value, sensitive: variable.is_sensitive };
        // Variables from the manifest win, because their author set them on purpose.
        unit.env.entry(variable.name.to_owned()).or_insert(value);
    }
    Ok(Ok(EndpointBinding { unit: unit.name.clone(), identity: name, required_approval, target, address }))
}

fn endpoint_token(shared: &Shared, preview: &PreviewName, unit: &str) -> Result<Secret, Problem> {
    let token = shared.delivery.endpoint_token(&preview.id.0, unit);
    token.map_err(|error| Problem::new("secret_not_delivered", 500, error.to_string()).unit(unit))
}

/// The open endpoints of one preview. Dropping this value closes all of them.
#[derive(Default)]
pub struct Endpoints {
    listeners: Mutex<BTreeMap<UnitName, listener::EndpointListener>>,
}

impl Endpoints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnitName, listener::EndpointListener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens exactly these endpoints and closes all others. Returns a message for each one that cannot be opened.
    pub async fn set(&self, shared: &Arc<Shared>, preview: &PreviewName, bindings: &[EndpointBinding]) -> Vec<String> {
        let names: BTreeSet<&UnitName> = bindings.iter().map(|binding| &binding.unit).collect();
        self.lock().retain(|name, _| names.contains(name));
        let mut problems = Vec::new();
        for binding in bindings {
            if let Err(reason) = self.open_endpoint(shared, preview, binding).await {
                let (unit, identity) = (&binding.unit, &binding.identity);
                problems.push(format!("`{unit}` cannot request credentials of `{identity}`: {reason}"));
            }
        }
        problems
    }

    async fn open_endpoint(
        &self,
        shared: &Arc<Shared>,
        preview: &PreviewName,
        binding: &EndpointBinding,
    ) -> Result<(), String> {
        let token = endpoint_token(shared, preview, &binding.unit).map_err(|problem| problem.title)?;
        let access = Arc::new(EndpointAccess::new(binding.identity.clone(), token, vec![binding.address.to_string()]));
        if let Some(open) = self.lock().get(&binding.unit).filter(|open| open.is_bound_to(binding)) {
            open.replace_access(access);
            return Ok(());
        }
        // Close the old listener first: the new one may use the same port.
        drop(self.lock().remove(&binding.unit));
        let listener = listener::open_for_unit(shared, preview, binding, access).await?;
        self.lock().insert(binding.unit.clone(), listener);
        Ok(())
    }

    pub fn clear(&self) {
        self.lock().clear();
    }
}
