//! The environment that every service and job gets without asking. What the user sets wins over it.
//!
//! Nothing of this is in the hash but the domain: adding a service must not replace all others for one more URL.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::references::{Depth, Given, Value, World, join};
use crate::application::{PortProtocol, Role, RuntimeKind};
use crate::naming;

/// An application with more services than this gives each only its own URLs; the others are asked for with
/// `${services.NAME.url}`.
const SERVICES_TOLD_MAX: usize = 200;

/// Variable -> value, for a unit that may be a container or a process.
pub(super) fn environment(world: &World<'_>, draft: &Draft<'_>) -> BTreeMap<String, Value> {
    let mut given = BTreeMap::new();
    if draft.role == Role::Resource || world.depth == Depth::Findings {
        return given;
    }
    let preview = &world.context.preview;
    given.insert("PDEV_PREVIEW".to_owned(), Value::same(preview.title()));
    given.insert("PDEV_COOKIE_DOMAIN".to_owned(), Value::same(naming::preview_host(preview)));
    match world.told(draft.runtime) {
        Some(everybody) => given.extend(everybody.iter().cloned()),
        None => given.extend(urls(world, draft.runtime, &draft.name)),
    }
    if draft.runtime == RuntimeKind::Process {
        listen(world, draft, &mut given);
    }
    given
}

/// The URLs of all services as units of this runtime see them. `None` where there are too many of them: everybody's
/// URLs for everybody grow with the square of the services, and so does the environment's size.
pub(super) fn everybody(world: &World<'_>, runtime: RuntimeKind) -> Option<Vec<Given>> {
    let services = world.units.iter().filter(|(_, known)| known.role == Role::Service).map(|(name, _)| *name);
    let few = services.clone().nth(SERVICES_TOLD_MAX).is_none();
    few.then(|| services.flat_map(|name| urls(world, runtime, name)).collect())
}

fn urls(world: &World<'_>, runtime: RuntimeKind, name: &str) -> Vec<Given> {
    let mut urls = Vec::new();
    let Some(known) = world.units.get(name).filter(|known| known.role == Role::Service) else { return urls };
    let Some(port) = world.main_port(name) else { return urls };
    let Some(protocol) = known.ports.get(port).map(|port| port.protocol) else { return urls };
    let Some((host, number)) = world.address(runtime, name, port) else { return urls };
    let scheme = match protocol {
        PortProtocol::Http | PortProtocol::H2c => {
            urls.push((format!("PDEV_URL_{}", variable(name)), world.url(name)));
            "http://"
        }
        PortProtocol::Tcp => "tcp://",
        PortProtocol::Udp => "udp://",
    };
    let internal = join(&[&Value::same(scheme), &host, &Value::same(":"), &number]);
    urls.push((format!("PDEV_INTERNAL_URL_{}", variable(name)), internal));
    urls
}

/// A process has no port of its own choice: `PORT` for its main one, `PORT_<NAME>` for each.
fn listen(world: &World<'_>, draft: &Draft<'_>, given: &mut BTreeMap<String, Value>) {
    let Some(known) = world.units.get(draft.name.as_str()) else { return };
    for (name, port) in &known.ports {
        given.insert(format!("PORT_{}", variable(name)), Value::same(port.host.to_string()));
    }
    if let Some(port) = world.main_port(&draft.name).and_then(|main| known.ports.get(main)) {
        given.insert("PORT".to_owned(), Value::same(port.host.to_string()));
        given.insert("HOST".to_owned(), Value::same("127.0.0.1"));
    }
}

/// `web-ui` -> `WEB_UI`.
fn variable(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect()
}
