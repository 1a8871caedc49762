//! The environment variables that pdev sets for every service and job. Variables in the manifest override them.
//!
//! Of these values, the hash contains only the domain: adding a service must not replace all others because of one more
//! URL.

use std::collections::BTreeMap;

use super::draft::UnitDraft;
use super::references::{EnvVariable, ResolveContext, ResolveDepth, ResolvedText, concat};
use crate::application::{PortProtocol, Role, RuntimeKind};
use crate::naming;

/// With more services than this, each one gets only its own URLs. Others are available as `${services.NAME.url}`.
const INJECTED_SERVICES_MAX: usize = 200;

/// The variables of a unit, by name.
pub(super) fn unit_variables(context: &ResolveContext<'_>, draft: &UnitDraft<'_>) -> BTreeMap<String, ResolvedText> {
    let mut variables = BTreeMap::new();
    if draft.role == Role::Resource || context.depth == ResolveDepth::Diagnostics {
        return variables;
    }
    let preview = &context.inputs.preview;
    variables.insert("PDEV_PREVIEW".to_owned(), ResolvedText::literal(preview.title()));
    variables.insert("PDEV_COOKIE_DOMAIN".to_owned(), ResolvedText::literal(naming::preview_host(preview)));
    match context.url_variables(draft.runtime) {
        Some(urls) => variables.extend(urls.iter().cloned()),
        None => variables.extend(service_url_variables(context, draft.runtime, &draft.name)),
    }
    if draft.runtime.capabilities().addressing.assigns_ports() {
        add_port_variables(context, draft, &mut variables);
    }
    variables
}

/// The URLs of all services for units of this runtime. `None` if there are too many services: with all URLs in every
/// unit, the total size of the environments grows with the square of the number of services.
pub(super) fn all_url_variables(context: &ResolveContext<'_>, runtime: RuntimeKind) -> Option<Vec<EnvVariable>> {
    let services = context.units.iter().filter(|(_, unit)| unit.role == Role::Service).map(|(name, _)| *name);
    let is_small = services.clone().nth(INJECTED_SERVICES_MAX).is_none();
    is_small.then(|| services.flat_map(|name| service_url_variables(context, runtime, name)).collect())
}

fn service_url_variables(context: &ResolveContext<'_>, runtime: RuntimeKind, name: &str) -> Vec<EnvVariable> {
    let mut urls = Vec::new();
    let Some(unit) = context.units.get(name).filter(|unit| unit.role == Role::Service) else { return urls };
    let Some(port) = context.main_port(name) else { return urls };
    let Some(protocol) = unit.ports.get(port).map(|port| port.protocol) else { return urls };
    let Some((host, number)) = context.address(runtime, name, port) else { return urls };
    let scheme = match protocol {
        PortProtocol::Http | PortProtocol::H2c => {
            urls.push((format!("PDEV_URL_{}", variable_name(name)), context.service_url(name)));
            "http://"
        }
        PortProtocol::Tcp => "tcp://",
        PortProtocol::Udp => "udp://",
    };
    let internal = concat(&[&ResolvedText::literal(scheme), &host, &ResolvedText::literal(":"), &number]);
    urls.push((format!("PDEV_INTERNAL_URL_{}", variable_name(name)), internal));
    urls
}

/// The program must listen on the ports that pdev chose: `PORT` is its main port, and each port has a `PORT_<NAME>`.
fn add_port_variables(
    context: &ResolveContext<'_>,
    draft: &UnitDraft<'_>,
    variables: &mut BTreeMap<String, ResolvedText>,
) {
    let Some(unit) = context.units.get(draft.name.as_str()) else { return };
    for (name, port) in &unit.ports {
        variables.insert(format!("PORT_{}", variable_name(name)), ResolvedText::literal(port.host_port.to_string()));
    }
    if let Some(port) = context.main_port(&draft.name).and_then(|main| unit.ports.get(main)) {
        variables.insert("PORT".to_owned(), ResolvedText::literal(port.host_port.to_string()));
        variables.insert("HOST".to_owned(), ResolvedText::literal("127.0.0.1"));
    }
}

/// `web-ui` -> `WEB_UI`.
fn variable_name(name: &str) -> String {
    let to_variable_char = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(to_variable_char).collect()
}
