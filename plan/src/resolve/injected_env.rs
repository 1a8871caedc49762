//! The environment that every service and job gets without asking. What the user sets wins over it.
//!
//! Nothing of this is in the hash but the domain: adding a service must not replace all others for one more URL.

use std::collections::BTreeMap;

use super::draft::UnitDraft;
use super::references::{EnvVariable, ResolveContext, ResolveDepth, ResolvedText, concat};
use crate::application::{PortProtocol, Role, RuntimeKind};
use crate::naming;

/// An application with more services than this gives each only its own URLs; the others are asked for with
/// `${services.NAME.url}`.
const INJECTED_SERVICES_MAX: usize = 200;

/// Variable -> value, for a unit that may be a container or a process.
pub(super) fn unit_variables(world: &ResolveContext<'_>, draft: &UnitDraft<'_>) -> BTreeMap<String, ResolvedText> {
    let mut given = BTreeMap::new();
    if draft.role == Role::Resource || world.depth == ResolveDepth::Diagnostics {
        return given;
    }
    let preview = &world.inputs.preview;
    given.insert("PDEV_PREVIEW".to_owned(), ResolvedText::literal(preview.title()));
    given.insert("PDEV_COOKIE_DOMAIN".to_owned(), ResolvedText::literal(naming::preview_host(preview)));
    match world.url_variables(draft.runtime) {
        Some(everybody) => given.extend(everybody.iter().cloned()),
        None => given.extend(service_url_variables(world, draft.runtime, &draft.name)),
    }
    if draft.runtime == RuntimeKind::Process {
        add_port_variables(world, draft, &mut given);
    }
    given
}

/// The URLs of all services as units of this runtime see them. `None` where there are too many of them: everybody's
/// URLs for everybody grow with the square of the services, and so does the environment's size.
pub(super) fn all_url_variables(world: &ResolveContext<'_>, runtime: RuntimeKind) -> Option<Vec<EnvVariable>> {
    let services = world.units.iter().filter(|(_, known)| known.role == Role::Service).map(|(name, _)| *name);
    let few = services.clone().nth(INJECTED_SERVICES_MAX).is_none();
    few.then(|| services.flat_map(|name| service_url_variables(world, runtime, name)).collect())
}

fn service_url_variables(world: &ResolveContext<'_>, runtime: RuntimeKind, name: &str) -> Vec<EnvVariable> {
    let mut urls = Vec::new();
    let Some(known) = world.units.get(name).filter(|known| known.role == Role::Service) else { return urls };
    let Some(port) = world.main_port(name) else { return urls };
    let Some(protocol) = known.ports.get(port).map(|port| port.protocol) else { return urls };
    let Some((host, number)) = world.address(runtime, name, port) else { return urls };
    let scheme = match protocol {
        PortProtocol::Http | PortProtocol::H2c => {
            urls.push((format!("PDEV_URL_{}", variable_name(name)), world.service_url(name)));
            "http://"
        }
        PortProtocol::Tcp => "tcp://",
        PortProtocol::Udp => "udp://",
    };
    let internal = concat(&[&ResolvedText::literal(scheme), &host, &ResolvedText::literal(":"), &number]);
    urls.push((format!("PDEV_INTERNAL_URL_{}", variable_name(name)), internal));
    urls
}

/// A process has no port of its own choice: `PORT` for its main one, `PORT_<NAME>` for each.
fn add_port_variables(world: &ResolveContext<'_>, draft: &UnitDraft<'_>, given: &mut BTreeMap<String, ResolvedText>) {
    let Some(known) = world.units.get(draft.name.as_str()) else { return };
    for (name, port) in &known.ports {
        given.insert(format!("PORT_{}", variable_name(name)), ResolvedText::literal(port.host_port.to_string()));
    }
    if let Some(port) = world.main_port(&draft.name).and_then(|main| known.ports.get(main)) {
        given.insert("PORT".to_owned(), ResolvedText::literal(port.host_port.to_string()));
        given.insert("HOST".to_owned(), ResolvedText::literal("127.0.0.1"));
    }
}

/// `web-ui` -> `WEB_UI`.
fn variable_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect()
}
